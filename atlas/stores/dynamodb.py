"""DynamoDB: `dynamodb://region/table`.

    dynamodb://eu-central-1/atlas-production?poll_seconds=0.25
    dynamodb://eu-central-1/atlas?endpoint=http://127.0.0.1:8000      a local one, whose table is made by itself

Permissions on the table: dynamodb:GetItem, PutItem, DeleteItem, Query. With `?create=true` a missing table is made, which needs
CreateTable and DescribeTable too.
Credentials come from where boto3 finds them (role of the machine, environment, profile), never from the URL.

Table: partition key `pk` (string), sort key `sk` (string), nothing else: no index, no stream, no time to live. `a/b/c` is the
item pk=`a`, sk=`a/b/c`, with `body` (binary) and `version` (string, random for each write). Every read is strongly
consistent, every condition stands on a single item. A wait asks for the version every `poll_seconds` and for the body only
when it changed; each question costs read units for the size of the item.
"""

from __future__ import annotations

import logging
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from atlas.stores.address import Address
from atlas.stores.store import ANY, LARGEST_BODY, AnyVersion, Changed, Document, Guarantees, Refused
from smartrealm.errors import ConfigurationError, Unavailable
from smartrealm.fork import on_fork
from smartrealm.redaction import redact_text

_EXAMPLE = "dynamodb://region/table"
_OPTIONS = ("create", "endpoint", "poll_seconds", "timeout_seconds")
_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CREATING_SECONDS = 30.0

_THROTTLED = frozenset(
    ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "LimitExceededException"]
)
"""The request was not carried out: it may be repeated, whatever it is."""

_BROKEN = frozenset(["InternalServerError", "InternalFailure", "ServiceUnavailable", "RequestTimeout"])


class DynamoDBStore:
    """Documents in one table. One boto3 client for each process, made when it is first needed (its import takes 0.3 s)."""

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float = 3.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        client: Any = None,
    ) -> None:
        """`client` is boto3's, in place of one of its own."""
        self.address = address
        self.timeout_seconds = address.seconds("timeout_seconds", timeout_seconds)
        self.guarantees = Guarantees(
            name="dynamodb",
            reads="linearizable",
            wait="polled",
            poll_seconds=address.seconds("poll_seconds", 0.5),
            survives="the loss of an availability zone",
        )
        self._table = address.path
        self._endpoint = address.options.get("endpoint") or None
        self._is_local = self._endpoint is not None and urlsplit(self._endpoint).hostname in _LOOPBACK
        self._makes_table = address.flag("create", self._is_local)
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._client: Any = client
        self._closed = 0
        on_fork(self, DynamoDBStore._begin_anew)

    @classmethod
    def from_url(cls, url: str) -> DynamoDBStore:
        """The store behind a URL; nothing is connected. Raises ConfigurationError."""
        address = Address.of(url, port=None, options=_OPTIONS, example=_EXAMPLE)
        mistakes = []
        if len(address.hosts) != 1:
            mistakes.append("there is one region")
        if not _TABLE.fullmatch(address.path):
            mistakes.append("the path is the name of the table: 3 to 255 letters, digits and . _ -")
        if address.user or address.password:
            mistakes.append("credentials come from where boto3 finds them, never from the URL")
        endpoint = urlsplit(address.options.get("endpoint") or "http://host")
        if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
            mistakes.append("endpoint is no http:// or https:// URL")
        if mistakes:
            raise ConfigurationError(f"The URL of the dynamodb store cannot be used (expected {_EXAMPLE}):", mistakes)
        return cls(address)

    def __repr__(self) -> str:
        return f"DynamoDBStore({self.address.shown})"

    def get(self, key: str) -> Document | None:
        """The document, or None when there is none."""
        item = self._read("get_item", Key=_key(key), ConsistentRead=True).get("Item")
        return None if item is None else _document(item)

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        """Every document below a prefix, page by page (1 MB each)."""
        request: dict[str, Any] = {"ConsistentRead": True}
        operation = "scan"
        if prefix:
            operation = "query"
            request["KeyConditionExpression"] = "pk = :pk AND begins_with(sk, :prefix)"
            request["ExpressionAttributeValues"] = {":pk": {"S": prefix.partition("/")[0]}, ":prefix": {"S": prefix}}
        found: dict[str, Document] = {}
        while True:
            page = self._read(operation, **request)
            for document in map(_document, page["Items"]):
                found[document.key] = document
            if not page.get("LastEvaluatedKey"):
                return found
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        """Write one document; raises Changed when it is at another version than expected."""
        if len(body) > LARGEST_BODY:
            raise ValueError(f"{key} has {len(body)} bytes; a store takes {LARGEST_BODY}")
        version = secrets.token_hex(8)
        request: dict[str, Any] = {"Item": {**_key(key), "body": {"B": body}, "version": {"S": version}}}
        if expected is None:
            request["ConditionExpression"] = "attribute_not_exists(pk)"
        elif not isinstance(expected, AnyVersion):
            request.update(_condition("#version = :expected", expected))
        self._ask("put_item", request, key=key)
        return version

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        """Remove one document; raises Changed when it is at another version than expected."""
        request: dict[str, Any] = {"Key": _key(key)}
        if not isinstance(expected, AnyVersion):
            request.update(_condition("attribute_not_exists(pk) OR #version = :expected", expected))
        self._ask("delete_item", request, key=key)

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        """The document as soon as its version is not `seen`, asked every `poll_seconds`; None after `seconds`, or when it is closed."""
        end = self._clock() + seconds
        closed = self._closed
        while closed == self._closed:
            item = self._read(
                "get_item",
                Key=_key(key),
                ConsistentRead=True,
                ProjectionExpression="#version",
                ExpressionAttributeNames={"#version": "version"},
            ).get("Item")
            if item is not None and item["version"]["S"] != seen:
                document = self.get(key)
                if document is not None and document.version != seen:
                    return document
            left = end - self._clock()
            if left <= 0:
                return None
            self._sleep(min(self.guarantees.poll_seconds, left))
        return None

    def create(self) -> bool:
        """Make the table, paid by request, unless it is there; gives whether it was made. Raises Unavailable."""
        try:
            self._ask(
                "create_table",
                {
                    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                    "KeySchema": [
                        {"AttributeName": "pk", "KeyType": "HASH"},
                        {"AttributeName": "sk", "KeyType": "RANGE"},
                    ],
                    "BillingMode": "PAY_PER_REQUEST",
                },
            )
        except _InUse:
            return False
        end = self._clock() + _CREATING_SECONDS
        while self._read("describe_table")["Table"]["TableStatus"] != "ACTIVE":
            if self._clock() > end:
                raise Unavailable(f"{self.address.shown} is still being made; try again in a minute.")
            self._sleep(0.05 if self._is_local else 1.0)
        return True

    def close(self) -> None:
        """Close the idle connections. Waits under way end with None."""
        with self._lock:
            client, self._client = self._client, None
            self._closed += 1
        if client is not None:
            client.close()

    # -- asking --------------------------------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """In a child: the parent's connections are its own. Closing them would take locks of the pool; dropping does not."""
        self._lock = threading.Lock()
        self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> Any:
        try:
            import boto3
            import botocore.session
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise ConfigurationError("dynamodb:// needs boto3: pip install 'smartservice[dynamodb]'") from error
        for name in ("boto3", "botocore"):
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.INFO)  # at debug level they write bodies and signatures
        # A local one takes any; looking for real ones could ask the network.
        credentials = {"aws_access_key_id": "local", "aws_secret_access_key": "local"} if self._is_local else {}
        config = Config(
            connect_timeout=min(1.0, self.timeout_seconds),
            read_timeout=self.timeout_seconds,
            # Its own repetitions would make a conditional write fail on the first try's success.
            retries={"total_max_attempts": 1},
            max_pool_connections=20,
        )
        try:
            core = botocore.session.Session()
            core.register_component("data_loader", _loader())
            return boto3.session.Session(botocore_session=core).client(
                "dynamodb", region_name=self.address.hosts[0], endpoint_url=self._endpoint, config=config, **credentials
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"boto3 cannot be set up for {self.address.shown}: {redact_text(str(error))}"
            ) from error

    def _read(self, operation: str, **request: Any) -> Any:
        return self._ask(operation, request, again=True)

    def _ask(self, operation: str, request: Mapping[str, Any], *, key: str = "", again: bool = False) -> Any:
        """The answer of DynamoDB, within `timeout_seconds`. What was throttled is asked again, and with `again` (it changes
        nothing) whatever broke. Raises Changed, Unavailable, and _InUse for a table that is there."""
        reason = ""
        for _ in self._tries():
            client = self._connected()
            from botocore.exceptions import BotoCoreError, ClientError

            try:
                return getattr(client, operation)(TableName=self._table, **request)
            except (BotoCoreError, ClientError) as error:
                code, reason = _told(error)
                if code == "ConditionalCheckFailedException":
                    raise Changed(key) from None
                if code == "ResourceInUseException":
                    raise _InUse from None
                if code == "ResourceNotFoundException":
                    if not self._makes_table:
                        raise self._no_table() from error
                    self.create()
                elif code and code not in _THROTTLED | _BROKEN:
                    raise Refused(f"{self.address.shown} refuses: {reason}.") from error
                elif code not in _THROTTLED and not again:
                    raise self._unavailable(reason) from error
        raise self._unavailable(reason)

    def _tries(self) -> Iterator[int]:
        """Counts while there is time, with pauses that grow and differ between processes."""
        end = self._clock() + self.timeout_seconds
        number = 0
        while True:
            yield number
            number += 1
            pause = self._jitter() * min(1.0, 0.05 * 2**number)
            if self._clock() + pause >= end:
                return
            self._sleep(pause)

    def _no_table(self) -> Unavailable:
        return Unavailable(
            f"{self.address.shown}: there is no such table. Add ?create=true to the URL for its first use, "
            "or make it with the partition key pk and the sort key sk, both strings."
        )

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"{self.address.shown} did not answer within {self.timeout_seconds:g} s: {reason}.")


@cache
def _loader() -> Any:
    """boto3's description of DynamoDB, read once for all stores of a process: nine tenths of the time of a new client."""
    from botocore.loaders import create_loader

    return create_loader()


class _InUse(Exception):
    """The table is there already, or being made."""


def _key(key: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": key.partition("/")[0]}, "sk": {"S": key}}


def _document(item: Mapping[str, Any]) -> Document:
    return Document(item["sk"]["S"], bytes(item["body"]["B"]), item["version"]["S"])


def _condition(expression: str, expected: str | None) -> dict[str, Any]:
    request: dict[str, Any] = {
        "ConditionExpression": expression,
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":expected": {"S": expected}},
    }
    return request


def _told(error: Exception) -> tuple[str, str]:
    """The code of a refusal ("" when nothing came back from DynamoDB) and the reason in one line."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    answer = getattr(error, "response", None)
    if isinstance(answer, Mapping):
        told = answer.get("Error", {})
        return str(told.get("Code", "")), redact_text(f"{told.get('Code')}: {told.get('Message')}"[:300])
    name = type(error).__name__
    reason = redact_text(f"{name}: {error}".splitlines()[0][:200])
    return "" if isinstance(error, ConnectionError | HTTPClientError) else name, reason
