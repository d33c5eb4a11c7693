"""What is particular to DynamoDB, over dynalite: big answers, two who make the table, what is logged."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from atlas.stores.dynamodb import DynamoDBStore
from atlas.stores.store import ANY, LARGEST_BODY
from smartrealm.errors import ConfigurationError
from tests.store_servers import StoreServer

_numbers = itertools.count(1)


@pytest.fixture
def url(dynalite: StoreServer) -> str:
    """A table that is not there yet."""

    return dynalite.url(f"own-table-{next(_numbers)}")


@pytest.fixture
def store(url: str) -> Iterator[DynamoDBStore]:
    with contextlib.closing(DynamoDBStore.from_url(url)) as found:
        yield found


def test_more_than_a_page_is_found(store: DynamoDBStore) -> None:
    """Twelve documents of the largest size are three megabytes, which DynamoDB gives one at a time."""
    body = os.urandom(LARGEST_BODY)
    for number in range(12):
        store.put(f"snapshot/{number:02}", body, ANY)
    found = store.get_all("snapshot/")
    assert list(found) == [f"snapshot/{number:02}" for number in range(12)]
    assert all(document.body == body for document in found.values())


def test_of_many_who_find_no_table_all_go_on(url: str) -> None:
    """Processes that start together over an empty local DynamoDB make its table once and lose no write."""
    stores = [DynamoDBStore.from_url(url) for _ in range(5)]
    with contextlib.ExitStack() as stack:
        for one in stores:
            stack.enter_context(contextlib.closing(one))
        threads = [
            threading.Thread(target=one.put, args=(f"lease/{number}", b"x", None)) for number, one in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(stores[0].get_all("lease/")) == 5
        assert stores[0].create() is False


def test_nothing_secret_is_logged(store: DynamoDBStore, caplog: pytest.LogCaptureFixture) -> None:
    """At debug level too, neither bodies nor signatures are written."""
    with caplog.at_level(logging.DEBUG):
        store.put("head", b"body-of-a-document", None)
        store.get("head")
    for secret in ("body-of", "Ym9keS1vZi1hLWRvY3VtZW50", "Signature"):
        assert secret not in caplog.text


def test_nothing_is_imported_before_it_is_needed() -> None:
    """Opening the store does not import boto3, which takes 0.3 s; without it the first use names the extra."""
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from atlas.opening import open_store\n"
        "store = open_store('dynamodb://eu-central-1/table')\n"
        "assert 'botocore' not in sys.modules\n"
        "try: store.get('head')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.startswith(ConfigurationError.__name__)
    assert "smartservice[dynamodb]" in told
