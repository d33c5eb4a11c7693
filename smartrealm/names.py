"""The names of things: realms and services."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from smartrealm.errors import ConfigurationError

LOCAL = "local"
"""The realm of a laptop, in force when REALM is not set."""

_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def _label(kind: str, text: str) -> str:
    if _LABEL.fullmatch(text) and "--" not in text:
        return text
    raise ConfigurationError(
        f"{text!r} is not a {kind} name: use 1 to 63 lower-case letters, digits and single hyphens, "
        "beginning with a letter and not ending in a hyphen (a DNS label, RFC 1123)."
    )


class Realm(str):
    """One environment: `local`, `testing`, `production`, or any other DNS label. Behaves as its text.

    Raises ConfigurationError for a text that is no DNS label.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Realm:
        return super().__new__(cls, _label("realm", name))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Realm:
        """The realm that the variable REALM names; `local` when it is unset or empty."""
        return cls((os.environ if environ is None else environ).get("REALM") or LOCAL)

    @property
    def is_local(self) -> bool:
        """Whether this is a laptop: readable logs, printed error reports, embedded database."""
        return self == LOCAL


class ServiceName(str):
    """The name of a service, unique in its realm; usable as a host name. Behaves as its text.

    Raises ConfigurationError for a text that is no DNS label.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> ServiceName:
        return super().__new__(cls, _label("service", name))

    @classmethod
    def from_package(cls, package: str) -> ServiceName:
        """The service that a Python package holds: `team_identity.config` gives `team-identity`."""
        return cls(package.partition(".")[0].strip("_").replace("_", "-").lower())
