"""Config modules, sources and clocks that the tests hand in."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from smartconfig import Override, Overrides, Settings, Source, load
from smartrealm import ConfigurationError

HEAD = "from smartconfig import NeedsRestart, Secret\n"


def config(source: str, name: str = "identity.config", file: Path | None = None) -> ModuleType:
    """A config module made of this text; `file` is where its comments can be read."""
    module = ModuleType(name)
    if file is not None:
        file.write_text(HEAD + source)
        module.__file__ = str(file)
    exec(compile(HEAD + source, name, "exec", dont_inherit=True), vars(module))
    return module


def settings(text: str = "", **arguments: Any) -> Settings:
    """Settings of a module with this text, in an empty environment."""
    arguments.setdefault("environ", {})
    return load(config(text), **arguments)


def mistakes(text: str, **arguments: Any) -> list[str]:
    """What is wrong with settings that cannot be loaded."""
    with pytest.raises(ConfigurationError) as caught:
        settings(text, **arguments)
    return list(caught.value.mistakes)


def said(version: str, values: Mapping[str, Any] | None = None, **scoped: Mapping[str, Any]) -> Overrides:
    """Overrides for the service that reads them, and for scopes that are named."""
    entries = [Override(key, value, scope="") for key, value in (values or {}).items()]
    entries += [
        Override(key, value, scope="*" if scope == "everyone" else scope, author="anna")
        for scope, inner in scoped.items()
        for key, value in inner.items()
    ]
    return Overrides(version, tuple(entries))


class Teller(Source):
    """A source that says what the test tells it to, and waits without polling."""

    name = "atlas"

    def __init__(self, answer: Overrides | Exception) -> None:
        self._changed = threading.Condition()
        self._answer = answer
        self.asked = 0

    def tell(self, answer: Overrides | Exception) -> None:
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def current(self) -> Overrides:
        self.asked += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def wait(self, version: str, seconds: float) -> Overrides | None:
        with self._changed:
            self.asked += 1
            self._changed.wait_for(lambda: getattr(self._answer, "version", None) != version, min(seconds, 5.0))
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
