"""`sidecar check` finds what is wrong with a host, and says what to do about it."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from atlas.announcement import Announcement, announce
from sidecar.findings import examine
from sidecar.settings import Settings
from smartrealm.findings import Finding
from tests.processes import free_port

pytestmark = pytest.mark.needs("haproxy")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A host on which nothing runs yet, and nothing is wrong."""
    return Settings(tmp_path / "s", tmp_path / "state", port=free_port(), admin_port=free_port(), max_connections=200)


def check(
    settings: Settings, environ: dict[str, str] | None = None, descriptors: Callable[[], int] = lambda: 100_000
) -> list[Finding]:
    found = examine(settings, environ or {}, connect=environ is not None, descriptors=descriptors)
    assert found == sorted(found, key=lambda one: ["wrong", "risky", "good"].index(one.level))
    assert all(one.advice for one in found if one.level != "good")
    return found


def bad(settings: Settings, topic: str, descriptors: Callable[[], int] = lambda: 100_000) -> Finding:
    """The one finding that is not good; it is about this."""
    (found,) = [one for one in check(settings, descriptors=descriptors) if one.level != "good"]
    assert found.topic == topic
    return found


def test_a_host_that_is_well(settings: Settings) -> None:
    """Nothing but good findings before the first start, and nothing is made by looking."""
    assert [one for one in check(settings) if one.level != "good"] == []
    assert not settings.directory.exists()
    assert not settings.state.exists()


def program(folder: Path, says: str) -> str:
    path = folder / "haproxy"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


def test_no_haproxy_or_an_old_one(settings: Settings, tmp_path: Path) -> None:
    """A program that is missing, older than 2.6, or built without what is needed."""
    assert bad(replace(settings, haproxy="/nowhere/haproxy"), "haproxy").level == "wrong"
    old = replace(settings, haproxy=program(tmp_path, "HAProxy version 2.4.1 2021"))
    assert "2.4.1 is too old" in bad(old, "haproxy").says
    bare = replace(settings, haproxy=program(tmp_path, "HAProxy version 3.0.1 2024"))
    assert "Prometheus exporter" in bad(bare, "haproxy").says


def test_directories_that_cannot_be_used(settings: Settings, tmp_path: Path) -> None:
    """A file in the way, and a directory that everybody may write to."""
    (tmp_path / "file").write_text("")
    assert "is no directory" in bad(replace(settings, state=tmp_path / "file"), "directory").says
    settings.directory.mkdir()
    settings.directory.chmod(0o777)
    assert "say where calls go" in bad(settings, "directory").says


def test_a_disk_without_room(settings: Settings) -> None:
    """Too little room for the files is told of each directory, before it becomes an outage with the next start."""
    found = [one for one in examine(settings, {}, connect=False, free_of=lambda path: 9) if one.topic == "directory"]
    assert [one.level for one in found] == ["wrong", "wrong"]
    assert all("df -h" in one.advice for one in found)


def test_a_port_that_somebody_else_has(settings: Settings) -> None:
    """Named with its variable, and how to find who has it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.port))
        taken.listen()
        found = bad(settings, "port")
    assert f"Port {settings.port} of 127.0.0.1, for calls, is taken" in found.says
    assert "SIDECAR_PORT" in found.advice


class Problem(BaseHTTPRequestHandler):
    """Answers as HAProxy answers a service that is not known."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Type", "application/problem+json")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_port_that_another_sidecar_has(settings: Settings) -> None:
    """What answers like a sidecar is not taken for this one because of a socket that its dead HAProxy has left behind."""
    settings.directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(settings.runtime_socket))
    with ThreadingHTTPServer(("127.0.0.1", settings.port), Problem) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            found = bad(settings, "port")
        finally:
            other.shutdown()
    assert f"Port {settings.port} of 127.0.0.1, for calls, is taken by another sidecar" in found.says


def test_a_haproxy_that_is_frozen_is_no_other_program(settings: Settings) -> None:
    """Its socket and its port are open, and nothing answers: that is told, and nobody is sent to look for another program."""
    settings.directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control, socket.socket() as calls:
        control.bind(str(settings.runtime_socket))
        control.listen()
        calls.bind(("127.0.0.1", settings.port))
        calls.listen()
        found = next(one for one in check(settings) if one.topic == "port" and one.level != "good")
    assert "what holds it is frozen" in found.says
    assert "SIDECAR_PORT" not in found.advice


def test_too_few_descriptors(settings: Settings) -> None:
    """How many connections they leave room for, and what to set."""
    found = bad(settings, "descriptors", descriptors=lambda: 700)
    assert "room for 100 connections, not for 200" in found.says
    assert "LimitNOFILE=900" in found.advice
    assert check(settings, descriptors=lambda: resource.RLIM_INFINITY)


def test_a_file_that_haproxy_does_not_take(settings: Settings) -> None:
    """In HAProxy's words; one that it takes is good."""
    settings.directory.mkdir()
    settings.proxy_config.write_text("global\n  nonsense here\n")
    assert "nonsense" in bad(settings, "config").says
    settings.proxy_config.write_text(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
        f"frontend _calls\n  bind 127.0.0.1:{settings.port}\n"
    )
    assert [one for one in check(settings) if one.level != "good"] == []


def test_a_file_of_tokens_that_does_not_hold(settings: Settings, tmp_path: Path) -> None:
    """Missing, writable by others, or with a line that is none; a token never stands in a finding."""
    path = tmp_path / "tokens"
    asks = replace(settings, tokens_file=path)
    assert "without it nobody may call" in bad(asks, "tokens").says
    path.write_text("# who may call\norders s3cret\n")
    found = bad(asks, "tokens")
    assert "Line 2" in found.says
    assert "s3cret" not in found.says
    path.write_text(f"orders {'a' * 64}\n")
    path.chmod(0o622)
    assert "Others may write" in bad(asks, "tokens").says
    path.chmod(0o600)
    assert [one.says for one in check(asks) if one.topic == "tokens"] == [f"1 token in {path}."]


def test_an_announcement_that_is_not_used(settings: Settings) -> None:
    """Its file and the reason; a good one is silent."""
    announce(settings.directory, Announcement("billing", 8080))
    assert [one for one in check(settings) if one.level != "good"] == []
    (settings.announcements / "orders@:9000.json").write_text("{")
    assert "orders@:9000.json is not used" in bad(settings, "announced").says


def test_atlas_that_does_not_answer(settings: Settings, tmp_path: Path) -> None:
    """Where it was asked and why not, without what is secret; the local realm's file is there by itself."""
    away = replace(settings, atlas_url=f"http://user:s3cret@127.0.0.1:{free_port()}", atlas_token="t0ken")
    (found,) = [one for one in check(away, {}) if one.level == "wrong"]
    assert found.topic == "atlas"
    assert "s3cret" not in found.says
    assert "t0ken" not in found.says
    here = check(settings, {"STATE_DIR": str(tmp_path / "map")})
    assert any(one.topic == "atlas" and "answered within" in one.says for one in here)
