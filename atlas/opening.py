"""`atlas.open(url)`: one interface for every store and for `atlas serve`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from atlas.directory import Directory


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
    raise NotImplementedError
