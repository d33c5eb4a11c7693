"""`atlas.open(url)`: one interface for every store and for `atlas serve`."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from atlas.directory import Directory
from atlas.stores.store import Store
from smartrealm.errors import ConfigurationError
from smartrealm.names import Realm
from smartrealm.places import state_directory

STORES: Mapping[str, tuple[str, str]] = {
    "sqlite": ("atlas.stores.sqlite", "SqliteStore"),
    "zookeeper": ("atlas.stores.zookeeper", "ZooKeeperStore"),
    "dynamodb": ("atlas.stores.dynamodb", "DynamoDBStore"),
    "etcd": ("atlas.stores.etcd", "EtcdStore"),
    "consul": ("atlas.stores.consul", "ConsulStore"),
}
"""The class of each scheme, imported when it is asked for. Each has `from_url(url)`, which connects nothing."""

EXAMPLES = (
    "sqlite:///realm.db",
    "zookeeper://a,b,c/path",
    "dynamodb://region/table",
    "etcd://a,b,c/prefix",
    "consul://host/prefix",
    "http(s)://a,b,c",
)

_JOIN = re.compile(r"\s+\+\s+")
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}/?")
"""An `atlas serve` without its scheme."""


def open(
    url: str | None = None,
    *,
    token: str | None = None,
    service: str | None = None,
    keys: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Directory:
    """The map behind a URL; nothing is connected yet.

    `sqlite:///realm.db`, `zookeeper://a,b,c/path`, `dynamodb://region/table`, `etcd://a,b,c/prefix`, `consul://host/prefix`;
    two of them joined by ` + ` keep the catalogue in the first and presence in the second. `http(s)://a,b,c` asks the
    replicas of an `atlas serve`, with `token`. Without a URL: ATLAS_URL (and ATLAS_TOKEN), else in the local realm the
    SQLite file that all services of this machine share.

    `service` is on whose behalf it is read: that service's secrets can be seen. `keys` are the encryption keys of secrets
    (ATLAS_KEYS), only for a store. Raises ConfigurationError for a URL that cannot be understood, naming what can be.
    """
    environ = os.environ if environ is None else environ
    url = (url or environ.get("ATLAS_URL") or "").strip() or _local_url(environ)
    if scheme_of(url) in ("http", "https"):
        token = token if token is not None else environ.get("ATLAS_TOKEN") or None
        return _open_served(url, token, service)
    return _open_book(url, service, keys if keys is not None else environ.get("ATLAS_KEYS") or None)


def open_store(url: str) -> Store:
    """The store behind one URL (no ` + `); nothing is connected yet. Raises ConfigurationError."""
    scheme = scheme_of(url)
    if scheme not in STORES:
        near = difflib.get_close_matches(scheme, [*STORES, "http", "https"], n=1)
        meant = f" Did you mean {near[0]}://?" if near else ""
        if _ADDRESS.fullmatch(url):
            meant = f" Did you mean http://{url}?"
        told = f"There is no store {scheme}://." if scheme else "The URL of a map begins with a scheme."
        raise ConfigurationError(f"{told}{meant} Known are {', '.join(EXAMPLES)} (ATLAS_URL).")
    module, name = STORES[scheme]
    try:
        kind = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigurationError(f"This version has no store {scheme}://.") from None
    return cast(Store, kind.from_url(url))


def scheme_of(url: str) -> str:
    """The scheme of a URL in small letters; empty when it has none. Never any other part: there may be credentials."""
    scheme, mark, _ = url.partition("://")
    return scheme.lower() if mark and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def default_path(environ: Mapping[str, str]) -> Path:
    """The SQLite file that all services of this machine share: `atlas.db` in the state directory."""
    return state_directory(environ) / "atlas.db"


def _local_url(environ: Mapping[str, str]) -> str:
    realm = Realm.from_environment(environ)
    if not realm.is_local:
        raise ConfigurationError(
            f"Nobody says where the map of the realm {realm} is: set ATLAS_URL ({', '.join(EXAMPLES)}). "
            "Only the realm `local` has one by itself."
        )
    return f"sqlite:///{default_path(environ)}"


def _open_served(url: str, token: str | None, service: str | None) -> Directory:
    client: Any = importlib.import_module("atlas.client")
    return cast(Directory, client.HttpDirectory(url, token=token, service=service))


def _open_book(url: str, service: str | None, keys: str | None) -> Directory:
    from atlas.book import Book
    from atlas.secrets import SecretBox

    parts = _JOIN.split(url)
    if len(parts) > 2:
        raise ConfigurationError("A map is kept in one store, or in two joined by ` + `: catalogue + presence.")
    for part in parts:
        if scheme_of(part) in ("http", "https"):
            raise ConfigurationError(
                "An `atlas serve` (http://, https://) cannot be joined with a store: name it alone."
            )
    stores = [open_store(part) for part in parts]
    key_file = getattr(stores[0], "path", None)
    box = SecretBox(keys, file=None if key_file is None else Path(f"{key_file}.key"))
    return Book(stores[0], stores[-1], box=box, service=service)
