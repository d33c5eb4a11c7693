"""A mesh that was used before the fork, in many workers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import smartclient
from smartclient.runtime import Mesh, Options
from tests.faults import FaultServer, answer, world_of

WORKERS, THREADS, CALLS = 4, 3, 100


def wrong_after_fork(folder: Path) -> tuple[int, int]:
    """How many answers were another caller's, in four workers and in their parent, and how many calls there were."""
    with FaultServer(lambda seen: answer(body=seen.path.encode())) as server:
        known = world_of([server.address])
        mesh = Mesh(Options(state_dir=str(folder)), world=lambda: known)
        session = smartclient.Session(mesh=mesh)
        streamed = session.get("service://identity/streamed", stream=True)
        for _ in range(4):
            session.get("service://identity/warm")
        children = [_fork(session, number) for number in range(WORKERS)]
        wrong = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        wrong += streamed.text != "/streamed"
        wrong += session.get("service://identity/after").text != "/after"
        mesh.close()
        return wrong, len({seen.path for seen in server.seen if seen.path.startswith("/call-")})


def test_after_a_fork_every_caller_gets_its_own_answers(tmp_path: Path) -> None:
    """1,200 calls of four workers with three threads each, through a session that was warm before the fork: no body is
    another caller's, and the parent's connections are good afterwards."""
    assert wrong_after_fork(tmp_path / "state") == (0, WORKERS * THREADS * CALLS)


def _fork(session: smartclient.Session, worker: int) -> int:
    """A child that exits with the number of wrong answers."""
    child = os.fork()
    if child:
        return child
    wrong: list[str] = []
    try:
        threads = [
            threading.Thread(target=_call, args=(session, f"{worker}-{number}", wrong)) for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert session.mesh is not None
        peer = session.mesh.peer("identity")
        wrong += ["still under way"] * (peer.limit.under_way + peer.balancer.members[0].under_way)
    except BaseException as error:
        wrong.append(repr(error))
    os._exit(min(len(wrong), 100))


def _call(session: smartclient.Session, name: str, wrong: list[str]) -> None:
    for number in range(CALLS):
        path = f"/call-{name}-{number}"
        try:
            text = session.get(f"service://identity{path}").text
        except Exception as error:
            text = repr(error)
        if text != path:
            wrong.append(text)
