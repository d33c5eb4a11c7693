"""The reference of Atlas over HTTP: its examples are run, and it leaves no route and no setting out."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import atlas
from atlas.client import HttpDirectory
from atlas.model import Author, Service
from atlas.server import config as server_config
from atlas.server.app import make_app
from tests.atlas_server import ROOT, ServedAtlas
from tests.live.atlas_api.double import MapDouble

PAGE = (ROOT / "docs" / "reference" / "atlas-http.md").read_text()
EXAMPLES = [
    (command, answer)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for command, answer in re.findall(r"^\$ (.*?)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]
CHANGING = frozenset(["position", "since", "id", "at", "created_at", "digest", "token"])
"""Members whose values are different in every map."""


def alike(shown: Any, real: Any) -> bool:
    """Whether an example and an answer differ in nothing but what is different in every map."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return list(shown) == list(real) and all(name in CHANGING or alike(shown[name], real[name]) for name in shown)
    if isinstance(shown, list) and isinstance(real, list):
        if shown[:1] == ["token"] == real[:1]:
            return alike(shown[2], real[2])
        return len(shown) == len(real) and all(alike(*pair) for pair in zip(shown, real, strict=True))
    return bool(shown == real)


@pytest.mark.skipif(subprocess.run(["which", "curl"], capture_output=True).returncode != 0, reason="needs curl")
def test_every_example_gives_what_the_page_shows(tmp_path: Path) -> None:
    """In the order of the page, against a server that asks for tokens."""
    store = f"sqlite:///{tmp_path / 'realm.db'}"
    with atlas.open(store, environ={}) as book:
        token, _ = book.create_token("operator", "anna", by=Author("anna"))
    with (
        ServedAtlas(tmp_path, store, ATLAS_OPEN="false", WORKERS=1) as served,  # one that began before the changes
        HttpDirectory(served.url, token=token) as directory,
    ):
        before = str(directory.world().position)
        directory.put_service(Service("identity", owner="accounts", port=8000), by=Author("anna"))
        directory.put_service(Service("billing", port=8001), by=Author("anna"))
        environ = {**os.environ, "ATLAS": served.url, "TOKEN": token, "BEFORE": before}
        assert len(EXAMPLES) >= 14
        for command, answer in EXAMPLES:
            ran = subprocess.run(
                ["sh", "-c", command.replace("curl ", "curl --fail ", 1)], env=environ, capture_output=True, text=True
            )
            assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
            if answer.strip():
                assert alike(json.loads(answer), json.loads(ran.stdout)), f"{command}\n{ran.stdout}"
            else:
                assert ran.stdout == "", command


def test_every_route_is_on_the_page() -> None:
    """With each of its methods."""
    app = make_app(book=MapDouble(), environ={}, TESTING=True)
    headings = re.findall(r"^### (\w+) ([^?\n]+)", PAGE, re.MULTILINE)
    shown = {(method, re.sub(r"[A-Z]+(:[A-Z]+)?", "X", path)) for method, path in headings}
    known = {
        (method, re.sub(r"<[^>]+>", "X", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/")
        for method in (rule.methods or set()) & {"GET", "PUT", "PATCH", "POST", "DELETE"}
    }
    assert shown == known
    app.close()


def test_every_setting_and_metric_of_the_server_is_on_the_page() -> None:
    """With its default."""
    names = [name for name in vars(server_config) if name.isupper() and name != "SERVICE_NAME"]
    assert [name for name in names if f"| `{name}` |" not in PAGE] == []
    app = make_app(book=MapDouble(), environ={}, TESTING=True)
    text = app.test_client().get("/metrics").get_data(as_text=True)
    app.close()
    metrics = set(re.findall(r"^(atlas_\w+)", text, re.MULTILINE))
    assert len(metrics) >= 7
    assert [name for name in metrics if f"`{name}`" not in PAGE] == []
