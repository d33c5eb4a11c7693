"""Whose calls to other services these are: a service says so here, its client asks here, neither imports the other.

So a service that calls nobody never imports a client, and `import smartclient` anywhere in a service finds that service's map,
breakers and connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol


class Caller(Protocol):
    """A service that can call others."""

    @property
    def mesh(self) -> Any:
        """A `smartclient.Mesh`, made when it is first asked for."""


def _nobody() -> None:
    return None


_current: ContextVar[Caller | None] = ContextVar("smartrealm_caller", default=None)
_default: Callable[[], Caller | None] = _nobody

enter_caller = _current.set
"""Make a service the caller in this execution context; gives a token for `ContextVar.reset`."""


def use_caller(caller: Caller) -> None:
    """Make a service the caller wherever none is entered, for as long as somebody else holds it."""
    global _default
    _default = weakref.ref(caller)


def current_caller() -> Caller | None:
    """The service whose code runs here, or None outside of any."""
    return _current.get() or _default()
