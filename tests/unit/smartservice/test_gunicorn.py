"""gunicorn's settings as a service gets them, and the decisions of the hooks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

import smartservice.gunicorn
from smartservice.gunicorn import QuietLogger, _app_of, _at_import, drain_seconds, settings
from smartservice.lifecycle import Board, Desk, Lifecycle
from smartservice.workers import WorkerSide

QUIET: dict[str, str] = {}


def test_every_setting_is_one_that_gunicorn_accepts() -> None:
    """Each name is gunicorn's, each value and hook passes its validation."""
    config = Config()
    for name, value in settings(environ=QUIET).items():
        config.set(name, value)
    config.validate()
    assert (config.worker_class_str, config.threads, config.workers) == ("gthread", 8, 2)


def test_the_environment_decides_over_the_defaults() -> None:
    """What an operator sets is what gunicorn gets."""
    found = settings(
        environ={"HOST": "::1", "PORT": "9001", "WORKERS": "5", "THREADS": "3", "WORKER_MAX_REQUESTS": "100"},
        app="hello.app:make_app()",
    )
    assert found["bind"] == ["[::1]:9001"]
    assert (found["workers"], found["threads"], found["max_requests"], found["max_requests_jitter"]) == (5, 3, 100, 10)
    assert found["wsgi_app"] == "hello.app:make_app()"


def test_what_is_unsafe_by_default_is_switched_off() -> None:
    """One shared control socket, doubled log lines, trust in any proxy's headers: none of these."""
    found = settings(environ={"FORWARDED_ALLOW_IPS": "*"})
    assert found["control_socket_disable"] is True
    assert found["accesslog"] is None
    assert found["forwarded_allow_ips"] == "127.0.0.1,::1"
    assert found["preload_app"] is True


def test_sync_workers_have_one_thread() -> None:
    """gunicorn would silently turn sync with threads into gthread."""
    assert settings(environ={"WORKER_CLASS": "sync", "THREADS": "8"})["threads"] == 1


def test_reloading_is_for_development() -> None:
    """RELOAD=1: no preload, no timeout that would end a debugger, no drain."""
    found = settings(environ={"RELOAD": "1", "DRAIN_SECONDS": "20"})
    assert (found["reload"], found["preload_app"], found["timeout"]) == (True, False, 0)
    assert found["on_starting"].__self__._options.drain_seconds == 0


def test_what_was_edited_is_imported_anew_by_reloading_workers(tmp_path: Path) -> None:
    """With RELOAD=1 the master keeps no module of the service: a setting that is added is there after the reload."""
    package = tmp_path / "edited_service"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "config.py").write_text("PAGE_SIZE: int = 20\n")
    script = (
        "import sys; from smartservice.gunicorn import settings\n"
        "def kept(**environ):\n"
        "    settings('edited_service.config', environ={'ATLAS_URL': '', **environ})\n"
        "    return [name for name in sys.modules if name.startswith('edited_service')]\n"
        "print(kept(RELOAD='1'), len(kept()))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("[] 2\n", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"DRAIN_SECONDS": None, "PROBE_INTERVAL": 0.5, "PROBE_FALL": 2}, 3.0),
        ({"DRAIN_SECONDS": None, "PROBE_INTERVAL": 5.0, "PROBE_FALL": 3}, 17.0),
        ({"DRAIN_SECONDS": 0.0, "PROBE_INTERVAL": 5.0, "PROBE_FALL": 3}, 0.0),
    ],
)
def test_the_drain_lasts_as_long_as_the_balancer_needs(values: dict[str, Any], expected: float) -> None:
    """Two seconds longer than the probes take to notice, unless it is set."""
    assert drain_seconds(values) == expected


def test_every_mistake_is_told_in_one_message() -> None:
    """One restart, not five."""
    wrong = {
        "PORT": "70000",
        "WORKERS": "0",
        "MANAGEMENT_PORT": "70000",
        "DRAIN_SECONDS": "-1",
        "GRACEFUL_SECONDS": "-5",
        "THREADS": "many",
    }
    with pytest.raises(SystemExit) as ended:
        settings(environ=wrong)
    text = str(ended.value)
    for name in (
        "WORKERS",
        "PORT (environment variable PORT) is 70000: a port",
        "MANAGEMENT_PORT (environment variable MANAGEMENT_PORT) is 70000: a port",
        "DRAIN_SECONDS",
        "GRACEFUL_SECONDS",
        "as PORT is",
        'THREADS = "many"',
    ):
        assert name in text


def test_importing_everything_gives_the_settings_of_the_environment() -> None:
    """`from smartservice.gunicorn import *` is a whole configuration; a mistake is told at start, not at import."""
    good = _at_import({"PORT": "9002", "WORKERS": "3"})
    assert (good["bind"], good["workers"], good["on_starting"].__self__.refused) == (["127.0.0.1:9002"], 3, None)
    bad = _at_import({"WORKERS": "many"})
    assert bad["workers"] == 2
    with pytest.raises(SystemExit, match="WORKERS"):
        bad["nworkers_changed"](None, 2, None)
    assert set(good) | {"settings"} == set(smartservice.gunicorn.__all__)
    assert smartservice.gunicorn.__dict__.keys() >= set(good)


def test_the_app_is_found_inside_of_middleware() -> None:
    """However it is wrapped, the object with the lifecycle is the one that is started and closed."""
    app = SimpleNamespace(lifecycle=Lifecycle())
    wrapped = SimpleNamespace(app=SimpleNamespace(wsgi_app=SimpleNamespace(application=app)))
    assert _app_of(wrapped) is app
    stranger = SimpleNamespace(app=None)
    assert _app_of(stranger) is stranger


def test_gunicorns_lines_are_written_once(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Through the root logger when there is one, to standard error while there is none."""
    known, root = logging.getLogger("gunicorn.error").handlers, logging.root.handlers
    try:
        logging.root.handlers = [caplog.handler]
        logger = QuietLogger(Config())
        logger.setup(Config())
        logger.info("one")
        assert [record.message for record in caplog.records] == ["one"]
        assert capsys.readouterr().err == ""
        logging.root.handlers = []
        logger.info("two")
        assert capsys.readouterr().err.count("two") == 1
        assert len(logger.error_log.handlers) == 1
        logger.info("Handling signal: %s", "term")
        logger.info("Handling signal: %s", "hup")
        assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
            "Handling signal: hup"
        ]
        logger.access(None, None, None, None)
    finally:
        logging.getLogger("gunicorn.error").handlers, logging.root.handlers = known, root


class StubLog:
    """Keeps what a worker logs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, message: str, *args: object) -> None:
        self.lines.append(message % args)

    critical = error


def make_side(lifecycle: Lifecycle, board: Board, ended: list[int], closed: list[str]) -> tuple[WorkerSide, StubLog]:
    log = StubLog()
    worker = SimpleNamespace(cfg=SimpleNamespace(threads=1), tpool=None, log=log, max_keepalived=99)
    side = WorkerSide(
        worker,
        board=board,
        row=board.claim(),
        desk=Desk(),
        management=None,
        wedged_seconds=60.0,
        health_path="/healthcheck",
        metrics_path="/metrics",
        end=ended.append,
    )
    side._app = SimpleNamespace(close=lambda: closed.append("closed"))
    side._lifecycle = lifecycle
    return side, log


def test_a_wedged_worker_is_red_first_and_then_replaced() -> None:
    """After WEDGED_SECONDS it says so once; a quarter later it closes its app and ends itself."""
    now, board = [100.0], Board()
    lifecycle = Lifecycle(board=board, clock=lambda: now[0])
    ended: list[int] = []
    closed: list[str] = []
    side, log = make_side(lifecycle, board, ended, closed)
    side.show_stacks = lambda: None  # type: ignore[method-assign]
    side.beat()
    side.enter()
    for now[0] in (159.0, 161.0, 162.0, 174.0):
        side.beat()
    assert (ended, lifecycle.not_live(60.0) is not None) == ([], True)
    assert len(log.lines) == 1
    now[0] = 176.0
    side.beat()
    assert (ended, closed) == ([70], ["closed"])
    side.leave()
    side.beat()
    assert lifecycle.not_live(60.0) is None


def test_answers_end_their_connections_only_while_draining() -> None:
    """gthread is told that it may hold no idle connection, so each answer says `Connection: close`."""
    board = Board()
    side, _ = make_side(Lifecycle(board=board), board, [], [])
    side.enter()
    side.leave()
    assert side._worker.max_keepalived == 99
    board.begin_draining()
    side.enter()
    side.leave()
    assert side._worker.max_keepalived == 0
