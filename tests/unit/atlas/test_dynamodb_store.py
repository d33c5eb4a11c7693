"""What the DynamoDB store asks and how it takes refusals, against a server that answers as it is told to."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config

from atlas.stores.address import Address
from atlas.stores.dynamodb import DynamoDBStore
from atlas.stores.store import ANY, LARGEST_BODY, Changed
from smartrealm.errors import ConfigurationError, Unavailable

ITEM = {"sk": {"S": "head"}, "body": {"B": "Ym9keQ=="}, "version": {"S": "v1"}}


class Scripted:
    """Answers the requests in turn, the last answer for ever; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = [(200, {})]
        self.asked: list[tuple[str, Any]] = []
        self.url = ""

    def refuse(self, *codes: str) -> None:
        """Answer with these errors first, then with an item."""
        self.answers = [
            (400, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "said so"}) for code in codes
        ]
        self.answers.append((200, {"Item": ITEM, "Items": [ITEM]}))

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    scripted: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.scripted.asked.append((self.headers["X-Amz-Target"].partition(".")[2], json.loads(body)))
        answers = self.scripted.answers
        status, told = answers.pop(0) if len(answers) > 1 else answers[0]
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"scripted": scripted}))
    http.daemon_threads = True
    scripted.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield scripted
    http.shutdown()
    http.server_close()
    thread.join(30)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(scope="module")
def make(server: Scripted) -> Iterator[Callable[[Time], DynamoDBStore]]:
    """A store that is not on this machine, with a time of its own; all share a client, which takes a while to make."""
    config = Config(retries={"total_max_attempts": 1})
    client = boto3.client(
        "dynamodb",
        "eu-central-1",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=config,
    )
    address = Address("dynamodb", ("eu-central-1",), "realm")

    def make_one(time: Time) -> DynamoDBStore:
        return DynamoDBStore(address, sleep=time.sleep, clock=lambda: time.now, jitter=lambda: 0.5, client=client)

    yield make_one
    client.close()


@pytest.fixture
def store(make: Callable[[Time], DynamoDBStore], server: Scripted, time: Time) -> DynamoDBStore:
    server.answers = [(200, {"Item": ITEM, "Items": [ITEM]})]
    server.asked.clear()
    return make(time)


def test_what_is_throttled_is_asked_again(store: DynamoDBStore, server: Scripted, time: Time) -> None:
    """Throttling means that nothing was done: reads and writes are repeated, with pauses that grow."""
    server.refuse("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded")
    store.put("head", b"1", None)
    assert server.operations() == ["PutItem"] * 4
    assert time.slept == sorted(time.slept)
    assert len({json.dumps(request) for _, request in server.asked}) == 1, "the same write, with the same version"


def test_throttling_without_end_is_unavailable_in_time(store: DynamoDBStore, server: Scripted, time: Time) -> None:
    """After `timeout_seconds` the caller is told why."""
    server.answers = [(400, {"__type": "x#ThrottlingException", "message": "Rate exceeded"})]
    with pytest.raises(Unavailable, match=r"within 3 s: ThrottlingException: Rate exceeded"):
        store.get("head")
    assert time.now <= 3


def test_a_write_that_broke_is_sent_once(store: DynamoDBStore, server: Scripted) -> None:
    """After an internal error nobody knows whether it was written; a read is repeated."""
    server.answers = [(500, {"__type": "x#InternalServerError"}), (200, {"Item": ITEM})]
    with pytest.raises(Unavailable):
        store.put("head", b"1", "v1")
    assert server.operations() == ["PutItem"]
    server.answers = [(500, {"__type": "x#InternalServerError"}), (200, {"Item": ITEM})]
    assert store.get("head").body == b"body"  # type: ignore[union-attr]


def test_a_failed_condition_is_changed(store: DynamoDBStore, server: Scripted) -> None:
    """What DynamoDB checks on its item decides; nothing is asked again."""
    for attempt in (lambda: store.put("head", b"1", "v1"), lambda: store.delete("head", "v1")):
        server.refuse("ConditionalCheckFailedException")
        server.asked.clear()
        with pytest.raises(Changed):
            attempt()
        assert len(server.asked) == 1


def test_every_read_is_strongly_consistent(store: DynamoDBStore, server: Scripted) -> None:
    """get, get_all and wait never ask a replica that may lag behind."""
    store.get("head")
    store.get_all("lease/")
    store.get_all("")
    store.wait("head", "v1", 1)
    assert set(server.operations()) == {"GetItem", "Query", "Scan"}
    assert all(request["ConsistentRead"] is True for _, request in server.asked)


def test_a_wait_asks_for_the_version_at_its_pace(store: DynamoDBStore, server: Scripted, time: Time) -> None:
    """Every half second, and without the body, which is read only when the version is another one."""
    assert store.wait("head", "v1", 2) is None
    assert time.slept == [0.5] * 4
    assert {request.get("ProjectionExpression") for _, request in server.asked} == {"#version"}
    found = store.wait("head", "v0", 2)
    assert found is not None
    assert found.body == b"body"


def test_pages_are_followed_to_the_end(store: DynamoDBStore, server: Scripted) -> None:
    """A Query that stops at its megabyte goes on where it stopped."""
    last = {"pk": {"S": "lease"}, "sk": {"S": "lease/a"}}
    pages = [{"Items": [{**ITEM, "sk": {"S": f"lease/{name}"}}]} for name in "abc"]
    server.answers = [(200, {**page, "LastEvaluatedKey": last}) for page in pages[:2]] + [(200, pages[2])]
    assert list(store.get_all("lease/")) == ["lease/a", "lease/b", "lease/c"]
    assert [request.get("ExclusiveStartKey") for _, request in server.asked] == [None, last, last]


def test_a_missing_table_is_told_and_not_made(store: DynamoDBStore, server: Scripted) -> None:
    """Away from this machine a table is only made when the URL says so; the message says how to get one."""
    server.refuse("ResourceNotFoundException")
    with pytest.raises(Unavailable, match=r"no such table.*create=true"):
        store.get("head")
    assert server.operations() == ["GetItem"]


def test_a_missing_table_is_made_when_the_url_says_so(store: DynamoDBStore, server: Scripted, time: Time) -> None:
    """With `?create=true` the first use makes the table and then does what was asked."""
    address = dataclasses.replace(store.address, options={"create": "true"})
    asking = DynamoDBStore(address, sleep=time.sleep, clock=lambda: time.now, client=store._connected())
    server.answers = [
        (400, {"__type": "x#ResourceNotFoundException", "message": "said so"}),
        (200, {}),
        (200, {"Table": {"TableStatus": "ACTIVE"}}),
        (200, {}),
    ]
    asking.put("head", b"1", None)
    assert server.operations() == ["PutItem", "CreateTable", "DescribeTable", "PutItem"]


def test_create_tells_whether_it_made_the_table(store: DynamoDBStore, server: Scripted) -> None:
    """A table that is there is left alone; a new one is waited for and paid by request."""
    server.refuse("ResourceInUseException")
    assert store.create() is False
    creating, active = ({"Table": {"TableStatus": status}} for status in ("CREATING", "ACTIVE"))
    server.answers = [(200, {}), (200, creating), (200, active)]
    server.asked.clear()
    assert store.create() is True
    assert server.operations() == ["CreateTable", "DescribeTable", "DescribeTable"]
    assert server.asked[0][1]["BillingMode"] == "PAY_PER_REQUEST"


def test_missing_permissions_are_told(store: DynamoDBStore, server: Scripted) -> None:
    """A refusal is told in DynamoDB's words, at once."""
    server.refuse("AccessDeniedException")
    with pytest.raises(Unavailable, match="refuses: AccessDeniedException: said so"):
        store.put("head", b"1", ANY)


def test_a_body_that_is_too_large_is_not_sent(store: DynamoDBStore, server: Scripted) -> None:
    """More than LARGEST_BODY is a mistake of the caller."""
    with pytest.raises(ValueError, match="takes 262144"):
        store.put("head", bytes(LARGEST_BODY + 1), None)
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("dynamodb://eu-central-1", "the path is the name of the table"),
        ("dynamodb://eu-central-1/a/b", "the path is the name of the table"),
        ("dynamodb://eu-central-1:80/table", "has a port"),
        ("dynamodb://a,b/table", "there is one region"),
        ("dynamodb://AKIA:hunter2@eu-central-1/table", "never from the URL"),
        ("dynamodb://eu-central-1/table?endpoint=localhost:8000", "endpoint is no http:// or https:// URL"),
        ("dynamodb://eu-central-1/table?pol_seconds=1", "unknown option 'pol_seconds'"),
        ("dynamodb://eu-central-1/table?poll_seconds=never", "is no number of seconds"),
    ],
)
def test_a_url_that_cannot_be_used_is_told(url: str, told: str) -> None:
    """Every mistake is named, and no credential is shown."""
    with pytest.raises(ConfigurationError) as caught:
        DynamoDBStore.from_url(url)
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_pace_of_the_url_is_declared() -> None:
    """`poll_seconds` of the URL is what the guarantees say."""
    store = DynamoDBStore.from_url("dynamodb://eu-central-1/table?poll_seconds=0.25")
    assert store.guarantees.poll_seconds == 0.25
    assert isinstance(store.address, Address)
