"""What a store must do to hold a map: versioned documents, compare-and-set on one of them, and a wait for its change.

Everything that the map knows is built on this and nothing more (see `atlas/log.py`): no transactions over two documents,
no ordering between them, no clocks, no expiry. A store is written by making `tests/stores/test_store_contract.py` pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from smartrealm.errors import Unavailable

LARGEST_BODY = 256 * 1024
"""Bytes that every store takes in one body (DynamoDB's 400 KB per item is the narrowest); bigger things are cut."""


class AnyVersion:
    """The type of ANY."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = AnyVersion()
"""`expected=ANY`: write whatever is there, or nothing."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it was read. Versions are opaque: equal means unchanged, nothing else."""

    key: str
    body: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a store promises beyond the contract, for `atlas doctor` and for whoever chooses."""

    name: str
    reads: str
    """`linearizable`: a read sees every write that was acknowledged before it; or `own writes`: this client's own."""
    wait: str
    """`pushed` (the server tells) or `polled` (asked every so often)."""
    poll_seconds: float = 0.0
    """How often a polled store is asked; 0 for a pushed one."""
    survives: str = ""
    """Of what it survives the loss, as a sentence: `one of three servers`, `nothing: one file on one host`."""


class Changed(Exception):
    """Compare-and-set failed: the document is at another version (or there, or gone) than expected."""


class Refused(Unavailable):
    """The store said no (rights, a full disk): nothing was written, and asking again at once will not help."""


class Store(Protocol):
    """Documents by key. Keys are paths of `[A-Za-z0-9._:@-]` parts: `log/catalogue/head`, `lease/host-7`.

    Every method may be called from any thread, raises `smartrealm.errors.Unavailable` when the store cannot be asked
    within `timeout_seconds` (its sentence names the store, the address without credentials, and the reason), and never
    shows a body or a credential. Nothing is connected in the constructor; after a fork each process connects anew.
    """

    guarantees: Guarantees

    def get(self, key: str) -> Document | None:
        """The document, or None when there is none."""

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        """Every document whose key begins with `prefix` (which ends in a slash), by key, whatever their number."""

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        """Write one document (at most LARGEST_BODY bytes) and give its new version.

        `expected` is the version that is to be replaced, None when there must be none, ANY for no condition. Raises
        Changed when it is not so, and then nothing was written. An Unavailable leaves open whether it was written, unless
        it is Refused.
        """

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        """Remove one document; one that is not there is no error. Raises Changed when it is at another version."""

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        """The document as soon as its version is not `seen` (None: as soon as it is there); None after `seconds`.

        A change may be told late by at most `guarantees.poll_seconds` and a round trip. A document that is gone counts as
        no news.
        """

    def close(self) -> None:
        """Let go of every connection. The store may be used again: it connects anew."""
