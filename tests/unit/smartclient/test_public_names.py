"""Every name of requests is a name of smartclient, and the same object unless it is one that knows services."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest
import requests

import smartclient

OWN = {"Session", "session", "request", "get", "options", "head", "post", "put", "patch", "delete"}
"""The names of requests that are ours here; everything else is requests' own object."""

SUBMODULES = sorted(module.name for module in pkgutil.iter_modules(requests.__path__) if module.name != "_types")
OWN_SUBMODULES = {"api", "sessions"}


def public(module: Any) -> Iterator[str]:
    """The public names of a module."""
    return (name for name in dir(module) if not name.startswith("_"))


def test_every_name_of_requests_is_here() -> None:
    """Attributes, special ones included, and what a star import gives."""
    ours = OWN | OWN_SUBMODULES
    assert [name for name in public(requests) if getattr(smartclient, name) is not getattr(requests, name)] == sorted(
        ours
    )
    for name in ("__version__", "__title__", "__author__", "__license__", "__build__", "__cake__", "__copyright__"):
        assert getattr(smartclient, name) == getattr(requests, name)
    assert set(dir(requests)) <= set(dir(smartclient))
    assert sorted(smartclient.__all__) == sorted(vars(requests)["__all__"])


@pytest.mark.parametrize("name", SUBMODULES)
def test_every_submodule_of_requests_is_here(name: str) -> None:
    """As the very same module, or as one of ours that has all of its names."""
    ours, theirs = importlib.import_module(f"smartclient.{name}"), importlib.import_module(f"requests.{name}")
    if name not in OWN_SUBMODULES:
        assert ours is theirs
        return
    assert [each for each in public(theirs) if getattr(ours, each) is not getattr(theirs, each)] == sorted(
        OWN & set(public(theirs)) | OWN_SUBMODULES & set(public(theirs))
    )


def test_the_packages_within_requests_are_here() -> None:
    """`smartclient.packages.urllib3` and what is below it are urllib3."""
    for name in ("urllib3", "urllib3.util.retry", "urllib3.exceptions", "idna"):
        assert importlib.import_module(f"smartclient.packages.{name}") is importlib.import_module(name)


def test_sessions_are_sessions_of_requests() -> None:
    """isinstance and issubclass hold in both directions a program may ask for."""
    assert isinstance(smartclient.Session(), requests.Session)
    assert isinstance(smartclient.session(), smartclient.Session)
    assert smartclient.sessions.Session is smartclient.Session
    assert smartclient.Session.__attrs__ == requests.Session.__attrs__


def test_signatures_begin_as_in_requests() -> None:
    """Parameters of requests come first, in order; ours come after them and by name only."""
    ours, theirs = signature(smartclient.Session.request).parameters, signature(requests.Session.request).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name for name in ours if name not in theirs} == {
        "background", "deadline", "fallback", "hedge", "idempotency_key", "retries"
    }  # fmt: skip
    for name in OWN - {"Session", "session"}:
        assert list(signature(getattr(smartclient.api, name)).parameters) == list(
            signature(getattr(requests.api, name)).parameters
        )


def test_what_is_set_on_the_sessions_module_is_seen_by_the_code_that_runs() -> None:
    """`smartclient.sessions.x = y` is `requests.sessions.x = y`."""
    kept = requests.sessions.preferred_clock
    try:
        smartclient.sessions.preferred_clock = other = lambda: 0.0
        assert requests.sessions.preferred_clock is other
    finally:
        smartclient.sessions.preferred_clock = kept
    assert requests.sessions.Session is not smartclient.sessions.Session


def test_an_unknown_name_is_said_to_be_unknown() -> None:
    """A mistyped name is an AttributeError that names smartclient."""
    with pytest.raises(AttributeError, match="module 'smartclient' has no attribute 'gett'"):
        smartclient.gett  # type: ignore[attr-defined]  # noqa: B018


def test_a_session_keeps_its_kind_through_pickle() -> None:
    """What comes back is a Session of ours, with no mesh of its own."""
    copied = pickle.loads(pickle.dumps(smartclient.Session()))
    assert type(copied) is smartclient.Session
    assert copied.mesh is None


CODE = """
import sys, smartclient
from smartclient import *
import smartclient.exceptions, smartclient.adapters as adapters
from smartclient.packages.urllib3.util.retry import Retry
loaded = {name.partition(".")[2] for name in sys.modules if name.startswith("smartclient.")}
assert not loaded & {"calls", "runtime", "parallel", "transport", "testing", "recorder"}, loaded
assert not any(name.startswith("atlas") for name in sys.modules)
"""


def test_importing_smartclient_loads_nothing_that_a_plain_url_does_not_need() -> None:
    """Neither the map nor what calls to services need is imported before a service is called; no warning is given."""
    subprocess.run([sys.executable, "-W", "error", "-c", CODE], check=True)
