"""A server over a map in memory, and its clients by role."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from atlas.model import Instance, Lease, Override, Service
from atlas.server.app import make_app
from atlas.server.follower import Follower
from smartservice import SmartService
from tests.live.atlas_api.double import MapDouble, secret, wait_until

Ask = Callable[[str], FlaskClient]


@pytest.fixture
def book() -> MapDouble:
    """A small realm: two services with an instance each, settings of both and shared ones, secrets among them."""
    book = MapDouble()
    book.change(Service("web", owner="shop", port=8000), Service("billing", port=8001))
    book.change(
        Override("*", "REGION", "north"),
        Override("web", "PAGE_SIZE", 50, author="anna", at=3.0, revision=2),
        Override("billing", "CURRENCY", "EUR"),
        secret("*", "SHARED_KEY"),
        secret("web", "API_KEY"),
        secret("billing", "BANK_KEY"),
    )
    book.opened = {"*/SHARED_KEY": "shared-value", "web/API_KEY": "web-value", "billing/BANK_KEY": "bank-value"}
    book.change(
        Lease("host-1", "i1"),
        Instance("web", "host-1", 8000, lease="host-1"),
        Instance("billing", "host-2", 8001, lease="billing@host-2:8001"),
    )
    return book


@pytest.fixture
def app(book: MapDouble) -> Iterator[SmartService]:
    """A server that asks for tokens."""
    app = make_app(book=book, environ={}, TESTING=True, ATLAS_OPEN=False)
    yield app
    app.close()


@pytest.fixture
def open_app(book: MapDouble) -> Iterator[SmartService]:
    """A server of the local realm, which asks for none."""
    app = make_app(book=book, environ={}, TESTING=True)
    yield app
    app.close()


@pytest.fixture
def follower(app: SmartService) -> Follower:
    found: Follower = app.extensions["atlas.follower"]
    return found


class Caller(FlaskClient):
    """A client that sends one token with everything."""

    def open(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        kwargs["headers"] = {"Authorization": f"Bearer {self.token}", **(kwargs.get("headers") or {})}  # type: ignore[attr-defined,dict-item]
        return super().open(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def asking(app: SmartService, book: MapDouble, follower: Follower) -> Callable[..., FlaskClient]:
    """`asking("service", "web")`: a client with a token of that role for that subject, which the server has heard of."""

    def make(role: str, subject: str = "someone") -> FlaskClient:
        app.test_client_class = Caller
        client = app.test_client()
        client.token = book.token(role, subject)  # type: ignore[attr-defined]
        follower.start()
        wait_until(lambda: follower.world is not None and follower.world.position == book.now.position)
        return client

    return make
