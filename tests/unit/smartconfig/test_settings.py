"""Settings while they change: whole, versioned, pinned, told once."""

from __future__ import annotations

import contextvars
import gc
import logging
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from smartconfig import Override, Overrides, Settings, Snapshot, SourceStatus
from smartconfig.snapshot import differs
from smartrealm import ConfigurationError
from tests.unit.smartconfig.configs import Clock, Teller, said, settings

TEXT = """
PAGE_SIZE: int = 20
LOG_LEVEL = "INFO"
WORKERS: NeedsRestart[int] = 2
DATABASE_URL: Secret[str] = "postgres://anna:first-pw@db/x"
"""


class Odd:
    def __eq__(self, other: object) -> bool:
        raise TypeError("cannot be compared")

    __hash__ = None  # type: ignore[assignment]


def followed(answer: Overrides | Exception, text: str = TEXT, **arguments: Any) -> tuple[Settings, Teller]:
    """Settings without a thread, and the source that they are refreshed from."""
    source = Teller(answer)
    arguments.setdefault("keep", False)
    return settings(text, source=source, **arguments), source


def test_a_snapshot_is_a_mapping_that_never_changes() -> None:
    """It reads like a dictionary and offers nothing to write with."""
    snapshot = Snapshot({"A": 1, "B": None}, "v1")
    assert (snapshot["A"], snapshot.get("C", 3), "B" in snapshot, len(snapshot), list(snapshot)) == (
        1, 3, True, 2, ["A", "B"],
    )  # fmt: skip
    assert dict(snapshot) == {"A": 1, "B": None}
    for name in ("__setitem__", "__delitem__", "update", "pop", "setdefault", "clear"):
        assert not hasattr(snapshot, name)
    with pytest.raises(AttributeError):
        snapshot.version = "v2"  # type: ignore[misc]


def test_snapshots_compare_by_version_and_values() -> None:
    """Equal means the same version of the same values; a plain mapping has values only."""
    assert Snapshot({"A": 1}, "v1") == Snapshot({"A": 1}, "v1")
    assert Snapshot({"A": 1}, "v1") != Snapshot({"A": 1}, "v2")
    assert Snapshot({"A": 1}, "v1") != Snapshot({"A": 2}, "v1")
    assert Snapshot({"A": 1}, "v1") == {"A": 1}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(1, 1, False), (1, 2, True), (1, True, True), ([1], [1], False), (None, "", True), (Odd(), Odd(), True)],
)
def test_values_differ_by_type_and_value(old: object, new: object, expected: bool) -> None:
    """`1` and `True` differ; values that cannot be compared do."""
    assert differs(old, new) is expected


def test_a_change_swaps_the_snapshot() -> None:
    """The old snapshot stays as it was; the new one has the new version."""
    found, source = followed(said("v1", {"PAGE_SIZE": 30}))
    old = found.snapshot
    source.tell(said("v2", {"PAGE_SIZE": 40}))
    found.refresh()
    assert (old["PAGE_SIZE"], old.version) == (30, "v1")
    assert (found.snapshot["PAGE_SIZE"], found.snapshot.version) == (40, "v2")


def test_without_a_source_the_version_is_defaults() -> None:
    """No source: version `defaults`, state `none`, and starting is harmless."""
    found = settings(TEXT)
    found.start()
    found.close()
    assert found.snapshot.version == "defaults"
    assert found.status == SourceStatus("none", "defaults", None)


def test_a_pinned_context_sees_one_version() -> None:
    """What was pinned stays, in this context only, until it is let go; the innermost pin counts."""
    found, source = followed(said("v1"))
    token = found.pin()
    source.tell(said("v2"))
    found.refresh()
    assert found.pinned().version == "v1"
    assert found.snapshot.version == "v2"
    assert contextvars.Context().run(found.pinned).version == "v2"
    assert contextvars.copy_context().run(found.pinned).version == "v1"
    inner = found.pin()
    assert found.pinned().version == "v2"
    found.unpin(inner)
    assert found.pinned().version == "v1"
    found.unpin(token)
    assert found.pinned().version == "v2"


def test_two_settings_do_not_touch() -> None:
    """Pinning one does nothing to the other."""
    first, second = followed(said("v1"))[0], followed(said("v9"))[0]
    token = first.pin()
    assert second.pinned().version == "v9"
    first.unpin(token)


def test_a_bad_update_is_refused_whole(caplog: pytest.LogCaptureFixture) -> None:
    """One mistake, and nothing of the update holds; all mistakes are in the status and in one log line."""
    found, source = followed(said("v1", {"PAGE_SIZE": 30}))
    before = found.snapshot
    source.tell(said("v2", {"PAGE_SIZE": "x", "LOG_LEVEL": "DEBUG", "LOG_LEVLE": 1}))
    with caplog.at_level(logging.INFO, "smartconfig"):
        found.refresh()
        found.refresh()
    assert found.snapshot is before
    assert found.status.state == "refused"
    assert found.status.version == "v1"
    assert list(found.status.mistakes) == [
        "LOG_LEVLE (atlas): identity.config declares no such setting; did you mean LOG_LEVEL?",
        'PAGE_SIZE = "x" (atlas): expected a whole number.',
    ]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "version v2 refused, v1 stays in force: " + "; ".join(found.status.mistakes))
    ]
    source.tell(said("v3", {"PAGE_SIZE": 40}))
    status = found.refresh()
    assert (status.state, status.version, status.mistakes) == ("fresh", "v3", ())


def test_a_rule_refuses_an_update() -> None:
    """The module's rules hold for updates, for the values in force as well as for those after a restart."""
    rule = "def validate(c):\n    if c['PAGE_SIZE'] < c['WORKERS']:\n        yield 'too few rows'\n"
    found, source = followed(said("v1", {"WORKERS": 10}), TEXT + rule)
    source.tell(said("v2", {"WORKERS": 30}))
    assert found.refresh().mistakes == ("identity.config: too few rows",)
    source.tell(said("v3", {"WORKERS": 3, "PAGE_SIZE": 5}))
    assert found.refresh().state == "refused"
    assert (found.snapshot["PAGE_SIZE"], found.snapshot["WORKERS"], dict(found.pending)) == (20, 10, {})


def test_what_needs_a_restart_is_pending() -> None:
    """The old value stays in force, the new one is reported; taking it back takes it off the list."""
    found, source = followed(said("v1"))
    told: list[Any] = []
    found.on_change("WORKERS", lambda old, new: told.append(new))
    source.tell(said("v2", {"WORKERS": 8, "PAGE_SIZE": 30}))
    assert found.refresh().pending == ("WORKERS",)
    assert (found.snapshot["WORKERS"], found.snapshot["PAGE_SIZE"], found.snapshot.version) == (2, 30, "v2")
    assert dict(found.pending) == {"WORKERS": 8}
    (item,) = found.explain("WORKERS")
    assert (item.value, item.winner, item.pending) == (2, "identity.config", 8)
    source.tell(said("v3", {"WORKERS": 2}))
    assert found.refresh().pending == ()
    assert told == []


def test_callbacks_run_once_for_a_change_of_their_keys() -> None:
    """Old and new snapshot, after the swap; not for other keys, equal values, or a refused update."""
    found, source = followed(said("v1"))
    told: list[tuple[int, int]] = []
    found.on_change(
        ["PAGE_SIZE", "LOG_LEVEL"],
        lambda old, new: told.append((old["PAGE_SIZE"], new["PAGE_SIZE"])) if found.snapshot is new else None,
    )
    for version, values in (
        ("v2", {"PAGE_SIZE": 30}),
        ("v2", {"PAGE_SIZE": 30}),
        ("v3", {"PAGE_SIZE": "30"}),
        ("v4", {"PAGE_SIZE": "x"}),
        ("v5", {"PAGE_SIZE": 30, "DATABASE_URL": "sqlite://"}),
        ("v6", {"PAGE_SIZE": 40, "LOG_LEVEL": "DEBUG"}),
    ):
        source.tell(said(version, values))
        found.refresh()
    assert told == [(20, 30), (30, 40)]


def test_a_callback_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the others are called, and it is called again for the next change."""
    found, source = followed(said("v1"))
    told: list[str] = []

    def fail(old: Snapshot, new: Snapshot) -> None:
        raise ValueError("broken")

    found.on_change("PAGE_SIZE", fail)
    cancel = found.on_change("PAGE_SIZE", lambda old, new: told.append(new.version))
    for number in (2, 3):
        source.tell(said(f"v{number}", {"PAGE_SIZE": number}))
        found.refresh()
    cancel()
    source.tell(said("v4", {"PAGE_SIZE": 4}))
    found.refresh()
    assert told == ["v2", "v3"]
    assert [record.getMessage() for record in caplog.records] == ["a callback for a change of PAGE_SIZE failed"] * 3


def test_a_callback_may_change_a_setting() -> None:
    """It is not called again for the change that it is being told of, and is for the next one."""
    found, _ = followed(said("v1"))
    told: list[tuple[int, int]] = []

    def follow(old: Snapshot, new: Snapshot) -> None:
        told.append((old["PAGE_SIZE"], new["PAGE_SIZE"]))
        found.override({"LOG_LEVEL": "DEBUG"})

    found.on_change("PAGE_SIZE", follow)
    found.override({"PAGE_SIZE": 30})
    found.override({"PAGE_SIZE": 40})
    assert told == [(20, 30), (30, 40)]


def test_nobody_waits_for_a_callback() -> None:
    """While a callback takes its time, values, status and explanations are answered, and are the new ones."""
    found, source = followed(said("v1"))
    begun, leave = threading.Event(), threading.Event()

    def slow(old: Snapshot, new: Snapshot) -> None:
        begun.set()
        leave.wait(20)

    found.on_change("PAGE_SIZE", slow)
    source.tell(said("v2", {"PAGE_SIZE": 30}))
    thread = threading.Thread(target=found.refresh)
    thread.start()
    assert begun.wait(30)
    answers: list[object] = []
    reader = threading.Thread(
        target=lambda: answers.extend(
            [found.status.version, found.explain("PAGE_SIZE")[0].value, found.pinned().version]
        )
    )
    reader.start()
    reader.join(30)
    leave.set()
    thread.join(30)
    assert answers == ["v2", 30, "v2"]


def test_a_callback_for_an_unknown_name_is_a_mistake() -> None:
    """A misspelt key would never be called: it is refused at once."""
    with pytest.raises(ConfigurationError, match="did you mean PAGE_SIZE"):
        settings(TEXT).on_change(["PAGE_SIZ"], print)


def test_explicit_overrides_can_be_added_later() -> None:
    """Set-up code and tests put values on top, all or none; they hold at once and survive updates."""
    found, source = followed(said("v1", {"PAGE_SIZE": 30}))
    told: list[int] = []
    found.on_change("WORKERS", lambda old, new: told.append(new["WORKERS"]))
    with pytest.raises(ConfigurationError, match="PAGE_SIZE"):
        found.override({"WORKERS": 3, "PAGE_SIZE": "x"})
    found.override({"WORKERS": 4, "TESTING": True})
    source.tell(said("v2", {"PAGE_SIZE": 40, "WORKERS": 9}))
    found.refresh()
    assert [found.snapshot[key] for key in ("WORKERS", "TESTING", "PAGE_SIZE")] == [4, True, 40]
    assert told == [4]
    assert found.pending == {}


@pytest.mark.parametrize(
    "failure",
    [ConnectionRefusedError("refused"), TimeoutError(), ValueError("500"), "nonsense", Overrides("v2", ("x",))],  # type: ignore[arg-type]
)
def test_a_source_that_fails_leaves_the_snapshot(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Down, slow or talking nonsense: the status says stale with its age, the log says it once, the values stay."""
    clock = Clock()
    found, source = followed(said("v1", {"PAGE_SIZE": 30}), clock=clock)
    before = found.snapshot
    source.tell(failure)
    with caplog.at_level(logging.INFO, "smartconfig"):
        for _ in range(3):
            clock.now += 10
            status = found.refresh()
    assert (status.state, status.age_seconds, len(status.mistakes)) == ("stale", 30.0, 1)
    assert found.snapshot is before
    assert len(caplog.records) == 1
    source.tell(said("v1", {"PAGE_SIZE": 30}))
    with caplog.at_level(logging.INFO, "smartconfig"):
        assert found.refresh() == SourceStatus("fresh", "v1", 0.0)
    assert "answers again" in caplog.text


def test_a_start_without_the_source_uses_the_last_good_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the source said last is in force again, with its version and true age."""
    clock = Clock()
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path, clock=clock)
    clock.now += 600
    found, source = followed(ConnectionError("down"), keep=True, state_dir=tmp_path, clock=clock)
    assert (found.snapshot["PAGE_SIZE"], found.snapshot.version) == (30, "v1")
    assert (found.status.state, found.status.age_seconds) == ("stale", 600.0)
    assert "starting on the last good configuration, version v1: atlas: down" in caplog.text
    source.tell(said("v2", {"PAGE_SIZE": 31}))
    assert found.refresh().state == "fresh"
    again, _ = followed(ConnectionError("down"), keep=True, state_dir=tmp_path, clock=clock)
    assert again.snapshot["PAGE_SIZE"] == 31


def test_a_restart_does_not_turn_a_refused_update_into_an_outage(tmp_path: Path) -> None:
    """Mistakes of the source alone start on the last good copy; the status lists them."""
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path)
    found, _ = followed(said("v2", {"PAGE_SIZE": "x"}), keep=True, state_dir=tmp_path)
    assert (found.snapshot["PAGE_SIZE"], found.status.state, found.status.version) == (30, "refused", "v1")
    assert found.status.mistakes == ('PAGE_SIZE = "x" (atlas): expected a whole number.',)


def test_mistakes_of_our_own_always_stop_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a mistake in the environment, all mistakes are told, and the last good copy helps nothing."""
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        followed(said("v2", {"PAGE_SIZE": "x"}), keep=True, state_dir=tmp_path, environ={"WORKERS": "many"})
    assert len(caught.value.mistakes) == 2
    assert caplog.text == ""


def test_a_bad_answer_without_a_copy_stops_the_start(tmp_path: Path) -> None:
    """There is nothing better to start on, so the mistakes are told."""
    with pytest.raises(ConfigurationError, match="PAGE_SIZE"):
        followed(said("v2", {"PAGE_SIZE": "x"}), keep=True, state_dir=tmp_path)


def test_a_start_without_source_and_copy_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The defaults are in force, and the status says that the overrides are missing."""
    found, _ = followed(ConnectionError("down"), keep=True, state_dir=tmp_path)
    assert found.status == SourceStatus("missing", "defaults", None, ("atlas: down",))
    assert "starting without overrides" in caplog.text


def test_a_required_setting_stops_a_start_without_source(tmp_path: Path) -> None:
    """A value that only the source has is not invented; the message says that the source is away."""
    with pytest.raises(ConfigurationError) as caught:
        followed(ConnectionError("down"), "NEEDED: str", keep=True, state_dir=tmp_path)
    assert caught.value.mistakes[0].startswith("NEEDED has no value")
    assert caught.value.mistakes[1] == "atlas: down"


def test_a_copy_that_fits_no_more_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A release that dropped a setting starts on its defaults, and the log says why."""
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path)
    found, _ = followed(ConnectionError("down"), "OTHER = 1", keep=True, state_dir=tmp_path)
    assert found.status.state == "missing"
    assert "does not fit any more" in caplog.text


def test_a_damaged_copy_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy that fails its checksum is as good as none, and the log says so."""
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path)
    (path,) = (tmp_path / "config").rglob("*.json")
    path.write_text(path.read_text().replace("30", "31"))
    found, _ = followed(ConnectionError("down"), keep=True, state_dir=tmp_path)
    assert found.snapshot["PAGE_SIZE"] == 20
    assert "is damaged" in caplog.text


def test_a_start_waits_for_a_slow_source_only_so_long(tmp_path: Path) -> None:
    """A source that hangs is left behind after the bound; the last good copy serves."""
    followed(said("v1", {"PAGE_SIZE": 30}), keep=True, state_dir=tmp_path)
    release = threading.Event()

    class Hanging(Teller):
        def current(self) -> Overrides:
            release.wait(20)
            raise ConnectionError

    found = settings(TEXT, source=Hanging(said("v2")), state_dir=tmp_path, start_seconds=0.05)
    assert found.snapshot["PAGE_SIZE"] == 30
    assert found.status.mistakes == ("atlas: atlas did not answer within 0.05 s.",) or found.status.mistakes == (
        "atlas did not answer within 0.05 s.",
    )
    release.set()


def test_the_secrets_in_force_and_just_replaced() -> None:
    """Secret values and passwords in URLs, of now, of the value before, and of what is pending."""
    text = TEXT + "TEAM_URL = 'https://bob:team-pw@x/'\nKEYS: NeedsRestart[Secret[list[str]]] = ['key-one']\nA = 1"
    found, source = followed(Overrides("v1", (Override("A", 2, scope=""),)), text)
    assert set(found.secrets()) == {"postgres://anna:first-pw@db/x", "first-pw", "team-pw", "key-one"}
    entries = {"DATABASE_URL": "postgres://anna:p%40second@db/x", "KEYS": ["key-two"]}
    source.tell(said("v2", entries))
    found.refresh()
    assert set(found.secrets()) == {
        "postgres://anna:first-pw@db/x", "first-pw", "team-pw", "key-one", "key-two",
        "postgres://anna:p%40second@db/x", "p%40second", "p@second",
    }  # fmt: skip


def test_secrets_of_every_kind_are_known() -> None:
    """Nested models, pydantic's secrets and URLs, objects by name, bytes and numbers."""
    text = """
import pydantic
class Db(pydantic.BaseModel):
    password: str = "in-a-model"
API: pydantic.SecretStr = pydantic.SecretStr("in-pydantic")
DB = Db()
URL: pydantic.PostgresDsn = pydantic.PostgresDsn("postgres://u:in-a-url-object@h/x")
HEADERS = {"Authorization": "in-a-header"}
RAW: Secret[bytes] = b"in-bytes"
NUMBER: Secret[int] = 123456
COUNT = 654321
NOTHING: Secret = None
"""
    expected = {"in-a-model", "in-pydantic", "in-a-url-object", "in-a-header", "in-bytes", "123456"}
    assert set(settings(text).secrets()) == expected


def test_an_override_can_make_a_value_secret() -> None:
    """What the source calls secret is masked though the module does not say so."""
    found, _ = followed(Overrides("v1", (Override("LOG_LEVEL", "hunter2", scope="", secret=True),)))
    assert "hunter2" in found.secrets()
    assert found.explain("LOG_LEVEL")[0].secret


def test_no_repr_shows_a_secret() -> None:
    """Settings, snapshot, pending values, status and explanations can be logged."""
    text = "A: Secret[str] = 'hunter-a'\nB: NeedsRestart[Secret[str]] = 'hunter-b'\nURL = 'http://u:hunter-c@h/'"
    found, source = followed(said("v1"), text)
    source.tell(said("v2", {"B": "hunter-d"}))
    found.refresh()
    everything = [found, found.snapshot, found.pending, found.status, found.explain(), found._in_force, found._inputs]
    assert "hunter" not in repr(everything) + str(everything)


def test_a_thousand_settings_leave_nothing() -> None:
    """Made, pinned, subscribed, explained and dropped, never started: no thread, no object stays."""
    before = set(threading.enumerate())
    dropped = []
    for _ in range(1000):
        found = settings("A = 1")
        found.on_change("A", lambda old, new: None)
        found.unpin(found.pin())
        dropped.append(weakref.ref(found))
        del found
    gc.collect()
    assert set(threading.enumerate()) <= before  # of those that other tests have left, some may end meanwhile
    assert not any(reference() for reference in dropped)
