"""Which calls are requests' alone, which go to services, and what a redirect from outside may not do."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

import smartclient
from smartclient import Mesh, Request, Session
from smartclient.routing import to_virtual


class Canned(BaseAdapter):
    """Answers 200, or redirects to `location`; keeps what it was given."""

    def __init__(self, location: str = "") -> None:
        super().__init__()
        self.location = location
        self.given: list[tuple[str | None, dict[str, Any]]] = []

    def send(self, request: requests.PreparedRequest, *arguments: Any, **keywords: Any) -> requests.Response:
        self.given.append((request.url, keywords))
        response = requests.Response()
        response.status_code, response.url, response.request = (
            (302 if self.location else 200),
            request.url or "",
            request,
        )
        response.raw = io.BytesIO(b"canned")
        if self.location:
            response.headers["Location"] = self.location
        return response

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """A mesh that knows no service: a call that reaches it says so."""
    from atlas.world import World

    mesh = Mesh(world=lambda: World())
    yield mesh
    mesh.close()


@pytest.fixture
def session(mesh: Mesh) -> Session:
    """A session over that mesh, with a canned network."""
    session = Session(mesh=mesh)
    session.mount("http://", Canned())
    return session


class Address:
    """An object that is a URL by its text."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url


@pytest.mark.parametrize(
    "url",
    [
        "service://identity/x",
        "SERVICE://identity",
        b"service://identity/x",
        "  service://identity",
        Address("service://identity/"),
    ],
)
def test_a_service_url_in_any_form_goes_to_the_service(session: Session, url: Any) -> None:
    """As text, bytes or an object, in any case, after blanks; by a verb and by position in `request`."""
    with pytest.raises(smartclient.UnknownService):
        session.get(url)
    with pytest.raises(smartclient.UnknownService):
        session.request("GET", url, {"a": "b"})


def test_a_prepared_request_to_a_service_keeps_its_params(session: Session) -> None:
    """`prepare_request` gives the request an origin of its own, with the query, and reads no .netrc."""
    prepared = session.prepare_request(Request("GET", "service://identity/teams?x=1", params={"y": "ü"}))
    assert prepared.url == to_virtual("service://identity/teams?x=1&y=%C3%BC")
    assert "Authorization" not in prepared.headers
    for request in (prepared, prepared.copy(), Request("GET", "service://identity/teams").prepare()):
        with pytest.raises(smartclient.UnknownService):
            session.send(request)


@pytest.mark.parametrize("target", ["service://identity/x", to_virtual("service://identity/x"), "SERVICE://identity/x"])
@pytest.mark.parametrize("deadline", [None, 5.0])
def test_a_redirect_from_outside_never_leads_to_a_service(
    session: Session, target: str, deadline: float | None
) -> None:
    """Neither when it is followed, nor when it is sent by hand, nor under a deadline: requests has no way there."""
    session.mount("http://outside", Canned(location=target))
    network = session.adapters["http://"]
    assert isinstance(network, Canned)
    following = session.get("http://outside/", allow_redirects=False).next
    assert following is not None
    with contextlib.suppress(requests.exceptions.InvalidSchema):
        session.get("http://outside/", deadline=deadline)
    with contextlib.suppress(requests.exceptions.InvalidSchema):
        session.send(following, deadline=deadline)
    for url, _ in network.given:
        assert url == to_virtual("service://identity/x")  # as any host that nobody knows


def test_an_adapter_of_the_program_for_service_urls_is_used(session: Session) -> None:
    """Whoever mounts an adapter at `service://` gets what requests does, under a deadline too."""
    own = Canned()
    session.mount("service://", own)
    session.get("service://identity/x", params={"a": "b"})
    with smartclient.deadline(5):
        session.get("service://identity/x")
    assert [url for url, _ in own.given] == ["service://identity/x"] * 2


def test_keywords_of_ours_that_are_none_change_nothing(session: Session) -> None:
    """A wrapper that passes `deadline=None` along makes requests' own call."""
    network = session.adapters["http://"]
    assert isinstance(network, Canned)
    session.get("http://x/", deadline=None, retries=None, fallback=None, background=False)
    session.get("http://x/")
    assert network.given[0] == network.given[1]


def test_background_gives_a_future_of_the_response(session: Session) -> None:
    """From a session, from `send`, and from a verb of the module."""
    assert session.get("http://x/", background=True).result(5).text == "canned"
    prepared = session.prepare_request(Request("GET", "http://x/"))
    assert session.send(prepared, background=True).result(5).text == "canned"  # type: ignore[attr-defined]
    with pytest.raises(requests.exceptions.InvalidSchema):
        smartclient.get("nope://x", background=True).result(5)


def test_a_subclass_without_super_init_still_calls_services(mesh: Mesh) -> None:
    """`mesh` is looked up on the class when __init__ was not run."""

    class Bare(Session):
        def __init__(self) -> None:
            vars(self).update(vars(requests.Session()))

    bare = Bare()
    bare.mesh = mesh
    with pytest.raises(smartclient.UnknownService):
        bare.get("service://identity/")


def test_wrong_arguments_of_a_service_call_are_told_as_by_requests(session: Session) -> None:
    """An unknown or doubled keyword is a TypeError that names it."""
    with pytest.raises(TypeError, match=r"Session.request\(\) got an unexpected keyword argument 'dedline'"):
        session.get("service://identity/", dedline=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="multiple values for argument 'url'"):
        session.request("GET", "service://identity/", url="service://identity/")  # type: ignore[call-overload]
