"""An export that a person touched is looked at as closely as anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atlas.book import Book
from atlas.model import Author, Service
from smartrealm.errors import ValidationFailed
from tests.unit.atlas.conftest import make_book
from tests.unit.atlas.faulty import FaultyStore, Time

ANNA = Author("anna")


def change(kind: str, key: str, after: Mapping[str, Any] | None, revision: int = 1) -> dict[str, Any]:
    told = {"revision": revision, "at": 1.5, "author": "anna", "why": "", "id": "x"}
    return {"change": {**told, "edits": [[kind, key, None, after]]}}


def header(revision: int = 1, **more: Any) -> dict[str, Any]:
    return {"atlas": "export", "format": 1, "revision": revision, **more}


SERVICE = change("service", "identity", {"name": "identity"})


def with_(**told: Any) -> list[dict[str, Any]]:
    """An export with one change of which some members are these."""
    return [header(), {"change": {**SERVICE["change"], **told}}, {"end": 2}]


def override(value: Any = 1, key: str = "*/K", before: Any = None, **more: Any) -> list[dict[str, Any]]:
    """An export of one override."""
    told = {"revision": 1, "at": 1.5, "author": "anna", "why": "", "id": "x"}
    after = {"scope": "*", "key": "K", "value": value, **more}
    return [header(), {"change": {**told, "edits": [["override", key, before, after]]}}, {"end": 2}]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], "no export"),
        (["text"], "no export"),
        ([header(format=2)], "format 2"),
        ([header(), SERVICE], "cut off"),
        ([header(), SERVICE, {"end": 3}], "missing"),
        ([header(2), SERVICE, {"end": 2}], "missing"),
        ([header(), change("service", "a", {"name": "a"}, 2), {"end": 2}], "Revision 1 is missing"),
        ([header(), change("service", "a", {"name": "Not A Name"}), {"end": 2}], "no service"),
        ([header(), change("service", "a", {"nam": "a"}), {"end": 2}], "Record 2"),
        ([header(), change("instance", "a/h:1", {"service": "a", "host": "h", "port": 1}), {"end": 2}], "instance"),
        ([header(), change("token", "t", None) | {"change": {}}, {"end": 2}], "Record 2"),
        ([header(), SERVICE, {"lease": {"id": "/", "incarnation": "i"}}, {"end": 3}], "no lease"),
        ([header(), SERVICE, {"else": 1}, {"end": 3}], "Record 3"),
        ([header(), 5, {"end": 2}], "Record 2"),
        ([header(), ["end"], {"end": 2}], "Record 2"),
        ([header(), SERVICE, {"end": 2}, header()], "behind the end"),
        (with_(revision=1.0), "Revision 1"),
        (with_(revision=True), "Revision 1"),
        (with_(at="noon"), "when"),
        (with_(at=float("nan")), "when"),
        (with_(author=5), "Who makes"),
        (with_(why=None), "reason"),
        (with_(id=[1]), "no id"),
        ([header(), change("service", "shop", {"name": "identity"}), {"end": 2}], "'shop' says that it is 'identity'"),
        ([header(), change("token", "t", {"id": "t", "role": "god", "subject": "s", "digest": "0" * 64})], "role"),
        (override(key="*/OTHER"), r"'\*/OTHER' says"),
        (override(before={"nope": 1}), "Record 2"),
        (override(before="text"), "Record 2"),
        (override(float("nan")), "no JSON form"),
        (override("\ud800"), "no JSON form"),
        (override("x" * 70_000), "at most 65536"),
        (override(None, hidden=True), "hidden"),
        (override(at="noon"), "at: seconds"),
        ([header(), SERVICE, {"lease": {"id": "h", "incarnation": "i", "opened_at": float("inf")}}], "opened_at"),
        (
            [
                header(),
                change("override", "*/K", {"scope": "*", "key": "K", "value": "s3cret", "secret": True}),
                {"end": 2},
            ],
            "not sealed",
        ),
    ],
)
def test_what_no_export_wrote_is_refused(book: Book, records: list[Any], told: str) -> None:
    """With the reason, without a value, and the map stays empty."""
    with pytest.raises(ValidationFailed, match=told) as caught:
        book.import_(records)
    assert "s3cret" not in str(caught.value)
    assert book.world().position.revision == 0
    assert book.import_([header(), SERVICE, {"end": 2}]) == 1


def test_what_a_lease_of_an_export_carries_is_carried_by_it(book: Book) -> None:
    """Also when its instances name another one: nothing comes that nobody could ever end."""
    carried = {"service": "identity", "host": "h", "port": 1, "lease": "other"}
    lease = {"lease": {"id": "host-1", "incarnation": "i", "instances": [carried]}}
    book.import_([header(), SERVICE, lease, {"end": 3}])
    assert book.world().instances["identity"]["h:1"].lease == "host-1"


def test_an_empty_map_is_moved_too(book: Book) -> None:
    """Nothing in, nothing out."""
    assert book.import_(list(book.export())) == 0
    assert book.put_service(Service("identity"), by=ANNA) == 1


def test_a_long_history_is_moved(book: Book, time: Time, tmp_path: Path) -> None:
    """More changes than one segment takes, and the whole of it can be read and rolled back at the new place."""
    for number in range(300):
        book.set_override("*", "KEY", number, by=ANNA)
    (tmp_path / "other").mkdir()
    with make_book(FaultyStore(tmp_path / "other"), time, tmp_path) as other:
        assert other.import_(book.export()) == 300
        assert other.history(limit=1000) == book.history(limit=1000)
        other.rollback(7, by=ANNA)
        assert other.world().overrides["*/KEY"].value == 6
