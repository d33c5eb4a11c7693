"""The journal of a drill and its undoing; the faults that need no process but this one."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from atlas.announcement import Announcement, Carrier, Sidecar, announce, read, read_sidecar
from sidecar.drill import journal as journals
from sidecar.drill.faults import flapping, frozen, full_disk
from sidecar.drill.journal import Continue, Journal, Remove, Undrain, is_held, left_of, undo_all
from sidecar.drill.processes import Process, ignores, own_addresses, process, restarter_of, tree
from smartrealm.errors import Conflict, Unavailable


def _announced(folder: Path, **more: object) -> Path:
    return announce(folder, Announcement("identity", 8000, host="127.0.0.1", incarnation="a1", **more))  # type: ignore[arg-type]


def test_what_is_to_be_undone_is_written_before_it_is_done(tmp_path: Path) -> None:
    """In the block it is on disk; after it it is done, and the journal is gone."""
    path = tmp_path / "drill.journal"
    with Journal(path) as journal:
        with journal.holding([Undrain(str(_announced(tmp_path, draining=True)), "a1")]):
            assert [type(undo) for _, _, undo, _ in left_of(path)] == [Undrain]
        assert left_of(path) == []
    assert not path.exists()


def test_a_journal_that_was_left_is_undone_by_whoever_comes(tmp_path: Path) -> None:
    """The next drill, or --undo, undoes what one left that was killed; half a line at its end harms nothing."""
    path, told = tmp_path / "drill.journal", _announced(tmp_path, draining=True)
    entry = {"id": 1, "until": 0.0, "kind": "undrain", "path": str(told), "incarnation": "a1"}
    path.write_text(json.dumps({"boot": journals.boot()}) + "\n" + json.dumps(entry) + '\n{"id": 2, "un')
    assert undo_all(path) == (1, 0)
    assert not read(told).draining
    assert left_of(path) == []


def test_only_what_is_late_is_undone_beside_a_drill(tmp_path: Path) -> None:
    """The watchdog leaves alone what is not over its time yet."""
    path, told = tmp_path / "drill.journal", _announced(tmp_path, draining=True)
    with Journal(path) as journal, journal.holding([Undrain(str(told), "a1")], seconds=30.0):
        assert undo_all(path, late=0.0) == (0, 0)
        assert read(told).draining
        assert undo_all(path, late=float("inf")) == (1, 0)
        assert not read(told).draining


def test_two_drills_do_not_meet(tmp_path: Path) -> None:
    """A second one is refused while the first one lives."""
    path = tmp_path / "drill.journal"
    with Journal(path):
        assert is_held(path)
        with pytest.raises(Conflict, match="Ctrl-C"), Journal(path):
            pass
    assert not is_held(path)


def test_without_a_journal_nothing_begins(tmp_path: Path) -> None:
    """What cannot be put on record is not done."""
    with pytest.raises(Unavailable, match="Nothing is begun"), Journal(tmp_path / "nowhere" / "drill.journal"):
        pass


def test_pids_of_an_earlier_boot_are_left_alone(tmp_path: Path) -> None:
    """After a reboot a number belongs to somebody else."""
    path = tmp_path / "drill.journal"
    own = process(os.getpid())
    assert own is not None
    entry = {"id": 1, "until": 0.0, "kind": "end", "pid": own.pid, "started": own.started}
    path.write_text(json.dumps({"boot": "another"}) + "\n" + json.dumps(entry) + "\n")
    undo_all(path)
    assert process(os.getpid()) == own


def test_a_number_that_another_process_has_gets_no_signal() -> None:
    """A process is a pid with the moment of its start."""
    assert Process(os.getpid(), 1).send(9) is False
    assert Continue(os.getpid(), 1).run() is False


def test_only_folders_of_a_drill_are_removed(tmp_path: Path) -> None:
    """Whatever a journal says."""
    Remove(str(tmp_path)).run()
    assert tmp_path.exists()


def test_a_full_disk_refuses_writes_and_is_given_back(tmp_path: Path) -> None:
    """Each write to a file fails with an OSError as long as it lasts; then the limit is what it was."""
    own, before = process(os.getpid()), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert own is not None
    file = tmp_path / "file"
    with full_disk([own]), pytest.raises(OSError, match="File too large"):
        file.write_text("x")
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    file.write_text("x")


def test_an_agent_comes_back_on_a_full_disk(tmp_path: Path) -> None:
    """It takes its lock, and what it said before goes on; only what is new has to be written."""
    told = Sidecar("http://127.0.0.1:4000", realm="testing", pid=1)
    with Carrier(tmp_path) as before:
        before.tell(told)
    own = process(os.getpid())
    assert own is not None
    with full_disk([own]), Carrier(tmp_path) as agent:
        agent.tell(Sidecar("http://127.0.0.1:4000", realm="testing", pid=2))
        with pytest.raises(Unavailable):
            agent.tell(Sidecar("http://127.0.0.1:4999", realm="testing", pid=2))
    assert read_sidecar(tmp_path) == told


def test_a_flapping_instance_ends_as_it_was(tmp_path: Path) -> None:
    """It says that it drains and that it does not; at the end it does not, unless it was started anew."""
    path = _announced(tmp_path)
    seen = set()
    with flapping(path, period=0.004):
        for _ in range(2000):
            seen.add(read(path).draining)
            if len(seen) == 2:
                break
    assert seen == {True, False}
    assert not read(path).draining


def test_an_instance_that_drains_by_itself_is_not_taken_back(tmp_path: Path) -> None:
    """Another incarnation is none of the drill's."""
    path = _announced(tmp_path)
    with flapping(path, period=0.1):
        while not read(path).draining:
            pass
        announce(tmp_path, Announcement("identity", 8000, host="127.0.0.1", incarnation="a2", draining=True))
    assert read(path).draining


def test_nothing_is_frozen_where_there_is_nothing() -> None:
    """A process that has gone meanwhile is no mistake."""
    gone = Process(2**22 - 3, 1)
    with frozen([gone]):
        assert not gone.is_stopped


def test_this_process_is_found_with_what_it_has() -> None:
    """Its tree begins with it, it ignores SIGXFSZ as Python does, and an address of this host is known as such."""
    assert tree(os.getpid())[0].pid == os.getpid()
    assert ignores(os.getpid(), 25)
    assert own_addresses(["127.0.0.1", "192.0.2.1"]) == {"127.0.0.1"}
    assert isinstance(restarter_of(os.getpid()), str)
