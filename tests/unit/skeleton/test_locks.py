"""Locks are taken apart and put together right."""

from __future__ import annotations

from skeleton import locks


def test_pips_report_becomes_a_hashed_lock() -> None:
    """Both forms of a hash that pip writes are understood; names are as an index spells them."""
    report = {
        "install": [
            _item("Flask_RESTful", "0.3", {"hashes": {"sha256": "aa"}}),
            _item("click", "8.5", {"hash": "sha256=bb"}),
        ]
    }
    pins, lock = locks.of_pip_report(report)
    assert pins == "click==8.5\nflask-restful==0.3\n"
    assert lock == "click==8.5 \\\n    --hash=sha256:bb\nflask-restful==0.3 \\\n    --hash=sha256:aa\n"
    assert locks.pinned(lock) == {"click==8.5", "flask-restful==0.3"}


def _item(name: str, version: str, archive: dict[str, object]) -> dict[str, object]:
    return {"metadata": {"name": name, "version": version}, "download_info": {"archive_info": archive}}


def test_a_lock_takes_the_hashes_of_the_same_version_from_another() -> None:
    """A mirror with a part of the files gives a lock for every machine, once the other index is asked too."""
    lock = "# head\n--find-links vendor\na==1 ; python_version < '3.12' \\\n    --hash=sha256:bb\n    # via x\nb==2 \\\n    --hash=sha256:cc\n"
    other = "a==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nb==3 \\\n    --hash=sha256:dd\n"
    assert locks.with_more_hashes(lock, other) == (
        "# head\n--find-links vendor\na==1 ; python_version < '3.12' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "    # via x\nb==2 \\\n    --hash=sha256:cc\n"
    )
