"""Promises of the mock mode: registered answers, loud failures, everything above the network at work."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

import smartclient
from smartclient import runtime
from smartclient.errors import BreakerOpen
from smartclient.testing import Answer, Calls, Made, UnexpectedCall, mock

TEAMS = "service://identity/teams"


@pytest.fixture
def mesh(tmp_path: Any) -> Iterator[runtime.Mesh]:
    """A mesh that waits for nothing and knows no map."""
    mesh = runtime.Mesh(runtime.Options(caller="tests", state_dir=str(tmp_path)), sleep=lambda seconds: None)
    token = runtime.enter(mesh)
    yield mesh
    runtime.leave(token)
    mesh.close()


@pytest.fixture
def calls(mesh: runtime.Mesh) -> Iterator[Calls]:
    with mock() as calls:
        yield calls


def test_a_registered_call_is_answered(calls: Calls) -> None:
    """JSON, status and headers are those that were registered, and the request is kept."""
    calls.post(TEAMS, json={"id": 1}, status=201, headers={"X-Kind": "new", "Set-Cookie": "a=b"})
    answer = smartclient.post(TEAMS, params={"dry": "1"}, json={"name": "blue"}, headers={"X-Mine": "yes"})
    assert (answer.status_code, answer.json(), answer.headers["X-Kind"], answer.reason) == (
        201,
        {"id": 1},
        "new",
        "Created",
    )
    assert answer.url == f"{TEAMS}?dry=1"
    assert answer.cookies["a"] == "b"
    (made,) = calls.made
    assert (made.method, made.url, made.service, made.path) == ("POST", TEAMS, "identity", "/teams")
    assert (made.params, made.json, made.headers["x-mine"], made.attempt) == (
        {"dry": ["1"]},
        {"name": "blue"},
        "yes",
        1,
    )
    assert str(made) == f"POST {TEAMS}?dry=1"


def test_bodies(calls: Calls) -> None:
    """Text, bytes, null and no body at all are answered as they are; files and generators that are sent can be read."""
    calls.get(f"{TEAMS}/text", text="grüße")
    calls.get(f"{TEAMS}/bytes", content=b"\x00")
    calls.get(f"{TEAMS}/null", json=None)
    calls.delete(TEAMS, status=204)
    calls.head(TEAMS, json=[1])
    assert smartclient.get(f"{TEAMS}/text").text == "grüße"
    assert smartclient.get(f"{TEAMS}/bytes").content == b"\x00"
    assert smartclient.get(f"{TEAMS}/null").json() is None
    assert smartclient.delete(TEAMS).content == b""
    assert smartclient.head(TEAMS).content == b""
    calls.put(TEAMS)
    smartclient.put(TEAMS, data=io.BytesIO(b"file"))
    smartclient.put(TEAMS, data=(part for part in (b"a", b"b")))
    assert [made.text for made in calls.made[-2:]] == ["file", "ab"]


def test_an_unregistered_call_fails_loudly(mesh: runtime.Mesh) -> None:
    """The error names the call, what comes near and what is registered, and a caller who swallows it does not hide it."""
    with pytest.raises(UnexpectedCall) as caught, mock() as calls:  # noqa: PT012
        calls.get(TEAMS)
        calls.post("service://identity/members")
        calls.get("service://billing/invoices", times=1)
        smartclient.get("service://billing/invoices")
        for method, url in (("POST", TEAMS), ("GET", "service://identity/team"), ("GET", "service://billing/invoices")):
            try:
                smartclient.request(method, url, params={"api_key": "planted"}, deadline=1)
            except Exception:
                continue
    said = str(caught.value)
    assert f"nothing is registered for POST {TEAMS}" in said
    assert f"GET {TEAMS}: the method is GET" in said
    assert f"GET {TEAMS}: another path" in said
    assert "GET service://billing/invoices: its answers are used up" in said
    assert "    POST service://identity/members" in said
    assert "planted" not in said


def test_the_failure_of_the_test_itself_comes_first(mesh: runtime.Mesh) -> None:
    """When the block fails for another reason, the calls that were not registered are told with it."""
    with pytest.raises(KeyError) as caught, mock():  # noqa: PT012
        try:
            smartclient.get(TEAMS)
        except UnexpectedCall:
            raise KeyError("mine") from None
    assert "nothing is registered at all" in caught.value.__notes__[0]


def test_matching(calls: Calls) -> None:
    """Routes tell requests apart by parameters, JSON body and headers; the first that fits answers."""
    calls.get(TEAMS, with_params={"page": 2, "tag": ["a", "b"]}, text="two")
    calls.get(f"{TEAMS}?page=1", text="one")
    calls.get(TEAMS, with_headers={"Accept-Language": "de"}, text="deutsch")
    calls.get(TEAMS, text="any")
    calls.post(TEAMS, with_json={"name": "blue"}, text="blue")
    calls.post(TEAMS, with_json=None, text="null")
    assert smartclient.get(TEAMS, params=[("tag", "a"), ("page", "2"), ("tag", "b")]).text == "two"
    assert smartclient.get(TEAMS, params={"page": 1}).text == "one"
    assert smartclient.get(TEAMS, headers={"accept-language": "de"}).text == "deutsch"
    assert smartclient.get(TEAMS, params={"page": 3}).text == "any"
    assert smartclient.post(TEAMS, json={"name": "blue"}).text == "blue"
    with pytest.raises(UnexpectedCall, match=r'the JSON body is {"name": "blue"}, not {"password": "\*+"}'):
        smartclient.post(TEAMS, json={"password": "planted"})
    calls.unexpected.clear()


def test_variables_in_the_path(calls: Calls) -> None:
    """`{name}` stands for one part of a path, which a function that answers can read."""
    calls.get(f"{TEAMS}/{{number}}", answer=lambda made: {"id": int(made.variables["number"])})
    assert smartclient.get(f"{TEAMS}/7").json() == {"id": 7}
    with pytest.raises(UnexpectedCall):
        smartclient.get(f"{TEAMS}/7/members")
    calls.unexpected.clear()


def test_functions_as_answers(calls: Calls) -> None:
    """A function gives JSON, JSON with a status, an Answer, or an exception that is raised."""
    given: list[Any] = [[1], ({"a": 1}, 202), Answer(404, text="no"), KeyError("x")]

    def answer(made: Made) -> Any:
        return given.pop(0)

    calls.get(TEAMS, answer=answer)
    assert smartclient.get(TEAMS).json() == [1]
    assert smartclient.get(TEAMS).status_code == 202
    assert smartclient.get(TEAMS).text == "no"
    with pytest.raises(KeyError):
        smartclient.get(TEAMS)


def test_an_answer_may_make_calls_itself(calls: Calls) -> None:
    """A function that answers may call another service."""
    calls.get("service://billing/x", json=7)
    calls.get(TEAMS, answer=lambda made: smartclient.get("service://billing/x").json())
    assert smartclient.get(TEAMS, deadline=5).json() == 7


def test_one_answer_after_another(calls: Calls) -> None:
    """`then` puts answers in a row; the last one stays unless it is counted too."""
    route = calls.get(TEAMS, text="first").then(text="second", times=2).then(text="third")
    assert [smartclient.get(TEAMS).text for _ in range(5)] == ["first", "second", "second", "third", "third"]
    assert len(route.made) == 5
    assert calls.unused == []


@pytest.mark.parametrize("failure", [{"status": 503}, {"fails": "timeout"}, {"fails": "refused"}, {"fails": "reset"}])
def test_failures_are_retried_as_on_the_network(calls: Calls, failure: dict[str, Any]) -> None:
    """Twice failed and then answered is one good call of three attempts."""
    calls.get(TEAMS, times=2, **failure).then(json=[])
    answer = smartclient.get(TEAMS, retries=2)
    assert answer.json() == []
    assert [made.attempt for made in calls.made] == [1, 2, 3]
    assert len(answer.attempts) == 3  # type: ignore[attr-defined]


def test_a_post_is_repeated_only_when_it_was_never_sent(calls: Calls) -> None:
    """A simulated refusal was never sent, a simulated reset may have been."""
    calls.post(TEAMS, fails="refused", times=1).then(json=[])
    assert smartclient.post(TEAMS).ok
    calls.post("service://billing/x", fails="reset")
    with pytest.raises(requests.ConnectionError):
        smartclient.post("service://billing/x")
    assert len(calls.made) == 3


def test_the_breaker_opens_and_the_next_block_begins_anew(mesh: runtime.Mesh) -> None:
    """Failures count as on the network, and nothing of it is left for the next test."""
    with mock() as calls:
        calls.get(TEAMS, status=503)
        with pytest.raises(BreakerOpen):  # noqa: PT012
            for _ in range(200):
                smartclient.get(TEAMS, retries=0)
    with mock() as calls:
        calls.get(TEAMS)
        assert smartclient.get(TEAMS).ok


def test_the_retries_of_tests_are_not_rationed(mesh: runtime.Mesh) -> None:
    """Block after block of failures is retried each time: the account of the host is not used."""
    for _ in range(30):
        with mock() as calls:
            calls.get(TEAMS, status=503, times=2).then()
            assert smartclient.get(TEAMS, retries=2).ok


def test_the_deadline_is_kept(calls: Calls) -> None:
    """An answer that is delayed beyond the deadline does not come."""
    calls.get(TEAMS, delay=5)
    begun = time.monotonic()
    with pytest.raises(smartclient.Timeout):
        smartclient.get(TEAMS, deadline=0.05)
    with pytest.raises(smartclient.DeadlineExceeded):
        smartclient.get(TEAMS, deadline=0.05, retries=0)
    assert time.monotonic() - begun < 3


def test_a_slow_answer_ends_its_attempt(calls: Calls) -> None:
    """An answer that is slower than the attempt may take is a timeout, and the next attempt is made."""
    calls.get(TEAMS, delay=5, times=1).then(json=[])
    answer = smartclient.get(TEAMS, timeout=0.05)
    assert [attempt.outcome for attempt in answer.attempts] == ["timeout", "ok"]  # type: ignore[attr-defined]
    calls.post(TEAMS, delay=5)
    with pytest.raises(smartclient.Timeout):
        smartclient.post(TEAMS, timeout=0.05)


def test_plain_urls(calls: Calls) -> None:
    """They are answered too when registered, fail as requests would, and are refused otherwise."""
    calls.get("http://partner.example/a", json=1)
    calls.get("http://partner.example:80/b", fails="timeout")
    assert smartclient.get("http://partner.example/a").json() == 1
    assert requests.get("http://PARTNER.example/a").json() == 1
    with pytest.raises(requests.ReadTimeout):
        smartclient.get("http://partner.example/b")
    with pytest.raises(UnexpectedCall):
        smartclient.get("http://127.0.0.1:9/")
    calls.unexpected.clear()


def test_plain_urls_that_pass_through(mesh: runtime.Mesh) -> None:
    """What `passthrough` names goes to the network, and only that."""
    with mock(passthrough="http://127.0.0.1:9/") as calls:
        with pytest.raises(requests.ConnectionError):
            smartclient.get("http://127.0.0.1:9/")
        with pytest.raises(UnexpectedCall):
            smartclient.get("http://127.0.0.2:9/")
        calls.unexpected.clear()
    with pytest.raises(ValueError, match="plain URLs"), mock(passthrough=["service://identity"]):
        pass


def test_every_thread_is_answered(calls: Calls) -> None:
    """Threads of the program, background calls and gather meet the same answers."""
    calls.get(TEAMS, json=1)
    found: list[Any] = [smartclient.get(TEAMS, background=True).result(5).json()]
    thread = threading.Thread(target=lambda: found.append(smartclient.get(TEAMS).json()))
    thread.start()
    thread.join()
    found += [answer.json() for answer in smartclient.gather([("GET", TEAMS)] * 3)]
    assert found == [1] * 5


def test_blocks_may_be_nested(mesh: runtime.Mesh) -> None:
    """The inner block answers while it lasts, then the outer one again."""
    with mock() as outer:
        outer.get(TEAMS, text="outer")
        with mock() as inner:
            inner.get(TEAMS, text="inner")
            assert smartclient.get(TEAMS).text == "inner"
        assert smartclient.get(TEAMS).text == "outer"
    assert runtime.intercept(None) is None


def test_mistakes_in_registering(calls: Calls) -> None:
    """They are told at once, not when the call is made."""
    with pytest.raises(ValueError, match="no whole URL"):
        calls.get("/teams")
    with pytest.raises(TypeError, match="one body"):
        calls.get(TEAMS, json=1, text="1")
    with pytest.raises(ValueError, match="connect-timeout"):
        calls.get(TEAMS, fails="slow")
    with pytest.raises(TypeError, match="not both"):
        calls.get(TEAMS, answer=lambda made: 1, json=2)


def test_the_fixture(service_calls: Calls, mesh: runtime.Mesh) -> None:
    """`service_calls` is the same in pytest, there for every test."""
    service_calls.get(TEAMS, json=[])
    assert smartclient.get(TEAMS).json() == []
