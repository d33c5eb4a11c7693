"""The URL of a store, taken apart: `scheme://user:password@a:1,b,c:2/path?option=value`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from smartrealm.errors import ConfigurationError

_TRUE = frozenset(["1", "true", "yes", "on"])
_FALSE = frozenset(["0", "false", "no", "off"])


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is and how to enter it. Its repr and `shown` never hold the password."""

    scheme: str
    hosts: tuple[str, ...]
    """`host:port`, an IPv6 address in brackets."""
    path: str = ""
    """Without slashes at either end."""
    user: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, url: str, *, port: int | None, options: Collection[str], example: str) -> Address:
        """Read a URL. Hosts without a port get `port`; with None they stay as they are and none may be given.

        Raises ConfigurationError with every mistake and an example; it never shows the password.
        """
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        place, _, path = rest.partition("/")
        userinfo, _, hosts = place.rpartition("@")
        user, _, password = userinfo.partition(":")
        given = dict(parse_qsl(query, keep_blank_values=True))
        mistakes = [f"unknown option {name!r}; known are {', '.join(sorted(options))}" for name in sorted(given.keys() - set(options))]  # fmt: skip
        found = []
        for one in hosts.split(","):
            host, mistake = _host(one.strip(), port)
            found.append(host)
            mistakes += [mistake] if mistake else []
        if mistakes:
            raise ConfigurationError(f"The URL of the {scheme} store cannot be used (expected {example}):", mistakes)
        return cls(scheme, tuple(found), unquote(path.strip("/")), unquote(user), unquote(password), given)

    @property
    def shown(self) -> str:
        """For messages: without credentials and options."""
        return f"{self.scheme}://{','.join(self.hosts)}{'/' + self.path if self.path else ''}"

    def seconds(self, name: str, default: float, least: float = 0.01, most: float = 60.0) -> float:
        """An option that is a number of seconds. Raises ConfigurationError for anything else."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise ConfigurationError(
                f"{name}={text} in {self.shown} is no number of seconds from {least:g} to {most:g}."
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """An option that is true or false. Raises ConfigurationError for anything else."""
        text = self.options.get(name)
        if text is None:
            return default
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigurationError(f"{name}={text} in {self.shown} is neither true nor false.")
        return text.lower() in _TRUE


def _host(text: str, default: int | None) -> tuple[str, str]:
    """The host with its port, and what is wrong with it ("" for nothing)."""
    if not text:
        return text, "a host is missing"
    bare = text.rpartition("]")[2] if text.startswith("[") else text
    _, colon, port = bare.rpartition(":")
    if default is None:
        return text, f"{text!r} has a port, which means nothing here" if colon else ""
    if not colon:
        return f"{text}:{default}", ""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        return text, f"{text!r} has no port from 1 to 65535 after its colon"
    return text, ""
