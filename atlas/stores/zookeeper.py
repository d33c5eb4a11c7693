"""ZooKeeper: `zookeeper://a,b,c/path`, from server version 3.5 on.

    zookeeper://user:password@a:2181,b:2181,c:2181/atlas/production?tls=true&ca=/etc/ssl/zookeeper-ca.pem

With a user (digest) every node that is made here is for that user only; the path above must let it create nodes. Nothing is
ephemeral and no session matters: a session that expired costs a reconnection.

`a/b/c` is the node `<path>/a%2Fb/c`: the documents of one directory are siblings, and only they have bodies. A version is the
zxid of the last write, which is never given twice; ZooKeeper itself compares a counter per node, which begins at 0 again for a
node that is made anew. So every removal also counts up the directory, and a conditional write holds only while no removal
came between reading the zxid and writing.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from atlas.stores.address import Address
from atlas.stores.store import ANY, LARGEST_BODY, AnyVersion, Changed, Document, Guarantees, Refused
from smartrealm.errors import ConfigurationError, Unavailable
from smartrealm.fork import on_fork

_AT_ONCE = 100
"""Requests that are under way together in `get_all`."""

_TOP = "%2F"
"""The directory of keys without a slash; `quote` makes no other name of it."""

_EXAMPLE = "zookeeper://host:2181,host:2181/atlas"
_CLOSING_SECONDS = 2.0

_log = logging.getLogger("atlas.stores.zookeeper.client")
# kazoo writes bodies and passwords at debug level, and a warning for each second of an outage, which every caller is told.
_log.setLevel(logging.ERROR)


class ZooKeeperStore:
    """Documents in ZooKeeper. One session for each process, made when it is first needed; one watch for each key waited for."""

    guarantees = Guarantees(
        name="zookeeper",
        reads="linearizable",
        wait="pushed",
        survives="the loss of fewer than half of its servers",
    )

    def __init__(
        self,
        address: Address,
        *,
        timeout_seconds: float = 3.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.timeout_seconds = address.seconds("timeout_seconds", timeout_seconds)
        self._root = "/" + "/".join(map(_quoted, (address.path or "atlas").split("/")))
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._client: Any = None
        self._live = threading.Event()
        self._watches: dict[str, _Watch] = {}
        self._made = 0
        on_fork(self, ZooKeeperStore._begin_anew)

    @classmethod
    def from_url(cls, url: str) -> ZooKeeperStore:
        """The store behind a URL; nothing is connected. Raises ConfigurationError."""
        return cls(Address.of(url, port=2181, options=("tls", "ca", "timeout_seconds"), example=_EXAMPLE))

    def __repr__(self) -> str:
        return f"ZooKeeperStore({self.address.shown})"

    def get(self, key: str) -> Document | None:
        """The document, or None when there is none."""
        path = self._path(key)
        _, found = self._ask(lambda client: [client.sync_async(self._root), client.get_async(path)], again=True)
        return _document(key, found)

    def get_all(self, prefix: str) -> Mapping[str, Document]:
        """Every document below a prefix; the reads of many nodes are under way at once."""
        _, names = self._ask(
            lambda client: [client.sync_async(self._root), client.get_children_async(self._root)], again=True
        )
        inside = [name for name in _names(names) if f"{_unquoted(name)}/".startswith(prefix) or not prefix]
        keys = []
        for batch in _batches(inside):
            children = self._read_all(batch, lambda client, name: client.get_children_async(f"{self._root}/{name}"))
            for directory, leaves in zip(batch, children, strict=True):
                above = _unquoted(directory)
                keys += [f"{above}/{unquote(leaf)}" if above else unquote(leaf) for leaf in _names(leaves)]
        found: dict[str, Document] = {}
        for batch in _batches(keys):
            answers = self._read_all(batch, lambda client, key: client.get_async(self._path(key)))
            documents = (_document(key, answer) for key, answer in zip(batch, answers, strict=True))
            found.update((document.key, document) for document in documents if document is not None)
        return found

    def _read_all(self, names: list[str], begin: Callable[[Any, str], Any]) -> Sequence[Any]:
        """The answers to one read for each name, all under way together."""
        return self._ask(lambda client: [begin(client, name) for name in names], again=True)

    def put(self, key: str, body: bytes, expected: str | AnyVersion | None) -> str:
        """Write one document; raises Changed when it is at another version than expected."""
        if len(body) > LARGEST_BODY:
            raise ValueError(f"{key} has {len(body)} bytes; a store takes {LARGEST_BODY}")
        if expected is None:
            version = self._create(key, body)
            if version is None:
                raise Changed(key)
            return version
        if isinstance(expected, AnyVersion):
            return self._put_anyhow(key, body)
        path = self._path(key)

        def change(client: Any, stat: Any, removals: int) -> Any:
            transaction = client.transaction()
            transaction.check(path.rpartition("/")[0], removals)
            transaction.set_data(path, body, stat.version)
            return transaction.commit_async()

        done = self._change_at(key, expected, change)
        if done is None:
            raise Changed(key)
        return _version(done[1])

    def delete(self, key: str, expected: str | AnyVersion = ANY) -> None:
        """Remove one document; raises Changed when it is at another version than expected."""
        path = self._path(key)

        def remove(client: Any, stat: Any, removals: int) -> Any:
            transaction = client.transaction()
            transaction.set_data(path.rpartition("/")[0], b"", removals)
            transaction.delete(path, stat.version if stat else -1)
            return transaction.commit_async()

        if isinstance(expected, AnyVersion):
            for _ in self._tries():
                _, directory, stat = self._stats(key)
                if stat is None or directory is None:
                    return
                if _failed(self._ask(lambda client: [remove(client, None, -1)])[0]) is None:
                    return
            raise self._too_late("others wrote beside it all the time")
        self._change_at(key, expected, remove)

    def wait(self, key: str, seen: str | None, seconds: float) -> Document | None:
        """The document as soon as its version is not `seen`, told by a watch; None after `seconds`, or when it is closed."""
        end = self._clock() + seconds
        path = self._path(key)
        made = self._made
        while True:
            watch = self._watch_of(path) if self._clock() < end else None
            document = self._read_and_watch(key, path, watch)
            if document is not None and document.version != seen:
                return document
            left = end - self._clock()
            if watch is None or left <= 0 or not watch.told.wait(left) or made != self._made:
                return None

    def close(self) -> None:
        """End the session. Waits under way end with None."""
        with self._lock:
            client, self._client = self._client, None
            watches, self._watches = self._watches, {}
            self._made += 1
        for watch in watches.values():
            watch.tell()
        if client is not None:
            _end(client).join(_CLOSING_SECONDS)

    # -- one document --------------------------------------------------------------------------------------------------

    def _create(self, key: str, body: bytes) -> str | None:
        """The version of a new document; None when there is one."""
        path = self._path(key)
        made = self._ask(lambda client: [client.create_async(path, body, makepath=True, include_data=True)])[0]
        return None if isinstance(made, Exception) else _version(made[1])

    def _put_anyhow(self, key: str, body: bytes) -> str:
        path = self._path(key)
        for _ in self._tries():
            stat = self._ask(lambda client: [client.set_async(path, body)])[0]
            if not isinstance(stat, Exception):
                return _version(stat)
            version = self._create(key, body)
            if version is not None:
                return version
        raise self._too_late("it changed all the time")

    def _change_at(self, key: str, expected: str | AnyVersion, change: Callable[[Any, Any, int], Any]) -> Any:
        """Do what `change(client, stat, removals)` begins while the document is at `expected`.

        None when there is no document (any more). Raises Changed when it is at another version.
        """
        for _ in self._tries():
            _, directory, stat = self._stats(key)
            if stat is None or directory is None:
                return None
            if _version(stat) != expected:
                raise Changed(key)
            done = self._ask(lambda client: [change(client, stat, directory.version)])[0]  # noqa: B023
            if _failed(done) is None:
                return done
            # Either the document changed, which the next look tells, or another one of its directory was removed.
        raise self._too_late("others were removed all the time")

    def _stats(self, key: str) -> Sequence[Any]:
        """[_, the stat of the directory, the stat of the document], None for what is not there, in this order of time."""
        path = self._path(key)
        return self._ask(
            lambda client: [
                client.sync_async(self._root),
                client.exists_async(path.rpartition("/")[0]),
                client.exists_async(path),
            ],
            again=True,
        )

    def _path(self, key: str) -> str:
        directory, _, leaf = key.rpartition("/")
        return f"{self._root}/{_quoted(directory) if directory else _TOP}/{_quoted(leaf)}"

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch_of(self, path: str) -> _Watch:
        """The watch of a node: the one that a wait before this left behind, or a new one when that was told of something."""
        with self._lock:
            watch = self._watches.get(path)
            if watch is None or watch.told.is_set():
                watch = self._watches[path] = _Watch()
            return watch

    def _read_and_watch(self, key: str, path: str, watch: _Watch | None) -> Document | None:
        """Read a document; when `watch` is not set yet, set it with the same request."""
        if watch is None or watch.is_set:
            return _document(key, self._ask(lambda client: [client.get_async(path)], again=True)[0])
        found = self._ask(lambda client: [client.get_async(path, watch=watch.tell)], again=True)[0]
        if isinstance(found, Exception):
            there = self._ask(lambda client: [client.exists_async(path, watch=watch.tell)], again=True)[0]
            if there is not None:
                watch.tell()  # it was made between the two: look again at once
        watch.is_set = True
        return _document(key, found)

    # -- the session ---------------------------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """In a child: the session belongs to the parent. Only our copies of its descriptors are closed."""
        client, self._client = self._client, None
        self._lock = threading.Lock()
        self._watches = {}
        self._made += 1
        if client is None:
            return
        atexit.unregister(client.handler.stop)
        connection = client._connection
        for sock in (connection._socket, connection._read_sock, connection._write_sock):
            if sock is not None:
                sock.close()

    def _connected(self, end: float) -> Any:
        """The client, connected. Raises Unavailable when it is not until `end`."""
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
                self._live = self._client.start_async()
            client, live = self._client, self._live
        if not live.wait(max(0.0, end - self._clock())):
            if client.client_state in ("CLOSED", "AUTH_FAILED"):
                self._drop(client)
            raise self._too_late("there is no connection")
        return client

    def _new_client(self) -> Any:
        try:
            from kazoo.client import KazooClient
            from kazoo.security import CREATOR_ALL_ACL
        except ImportError as error:
            raise ConfigurationError("zookeeper:// needs kazoo: pip install 'smartservice[zookeeper]'") from error
        tls = self.address.flag("tls", "ca" in self.address.options)
        owned = bool(self.address.user)
        return KazooClient(
            hosts=",".join(self.address.hosts),
            timeout=max(self.timeout_seconds, 4.0),  # of the session: a silent server is left after two thirds of it
            auth_data=[("digest", f"{self.address.user}:{self.address.password}")] if owned else None,
            default_acl=CREATOR_ALL_ACL if owned else None,
            connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": 0.5},
            logger=_log,
            use_ssl=tls,
            ca=self.address.options.get("ca"),
            check_hostname=tls,
        )

    def _drop(self, client: Any) -> None:
        """Let go of a client that will not connect again."""
        with self._lock:
            if self._client is not client:
                return
            self._client = None
            watches, self._watches = self._watches, {}
        for watch in watches.values():
            watch.tell()
        _end(client)

    def _ask(self, begin: Callable[[Any], Sequence[Any]], *, again: bool = False) -> Sequence[Any]:
        """The answers to the requests that `begin` sends together: values, or the errors of ZooKeeper that say what is so.

        With `again` (they change nothing) they are sent again when the connection broke. Raises Unavailable.
        """
        end = self._clock() + self.timeout_seconds
        while True:
            client = self._connected(end)
            try:
                return [self._answer(pending, end) for pending in begin(client)]
            except _Lost as error:
                if error.closed:
                    self._drop(client)
                if not again or self._clock() >= end:
                    raise self._too_late(error.reason) from error.__cause__
            self._sleep(0.02)

    def _answer(self, pending: Any, end: float) -> Any:
        from kazoo import exceptions as said

        if not pending.wait(max(0.0, end - self._clock())):
            raise _Lost("it was silent for too long")
        error = pending.exception
        if error is None or isinstance(error, said.NoNodeError | said.NodeExistsError | said.BadVersionError):
            return pending.value if error is None else error
        if isinstance(error, said.ConnectionClosedError | said.AuthFailedError):
            raise _Lost("the connection was closed", closed=True) from error
        if isinstance(error, said.ConnectionLoss | said.SessionExpiredError | said.OperationTimeoutError):
            raise _Lost("the connection was lost") from error
        if isinstance(error, said.NoAuthError | said.InvalidACLError):
            raise Refused(
                f"{self.address.shown} refuses: {self.address.user or 'a client without user'} may not do this "
                "(check the user and the password in the URL and the ACL of the nodes)."
            ) from error
        raise Unavailable(f"{self.address.shown} refuses: {type(error).__name__}.") from error

    def _tries(self) -> Iterator[int]:
        """Counts while there is time, with a pause between."""
        end = self._clock() + self.timeout_seconds
        for number in itertools.count():
            if number:
                self._sleep(0.001 * min(number, 20))
            if number and self._clock() >= end:
                return
            yield number

    def _too_late(self, reason: str) -> Unavailable:
        return Unavailable(f"{self.address.shown} did not answer within {self.timeout_seconds:g} s: {reason}.")


class _Watch:
    """A watch on one node, which lives until it is told of something, whoever waits meanwhile."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.is_set = False

    def tell(self, _: object = None) -> None:
        self.told.set()


class _Lost(Exception):
    """The connection broke while a request was under way."""

    def __init__(self, reason: str, *, closed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.closed = closed


def _end(client: Any) -> threading.Thread:
    """Stop a client in a thread: it waits for a server that may be silent."""

    def stop() -> None:
        with suppress(Exception):
            client.stop()
        with suppress(Exception):
            client.close()

    thread = threading.Thread(target=stop, name="zookeeper-close", daemon=True)
    thread.start()
    return thread


def _version(stat: Any) -> str:
    return f"{stat.mzxid:x}"


def _document(key: str, found: Any) -> Document | None:
    return None if isinstance(found, Exception) else Document(key, found[0] or b"", _version(found[1]))


def _names(children: Any) -> list[str]:
    return [] if isinstance(children, Exception) else children


def _quoted(name: str) -> str:
    """The name of a node; ZooKeeper refuses those of one and of two dots."""
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe=":@")


def _unquoted(directory: str) -> str:
    return "" if directory == _TOP else unquote(directory)


def _batches(items: list[str]) -> Iterator[list[str]]:
    return (items[begin : begin + _AT_ONCE] for begin in range(0, len(items), _AT_ONCE))


def _failed(results: Any) -> Exception | None:
    """What kept a transaction from being carried out; None when it was."""
    if isinstance(results, Exception):
        return results
    return next((result for result in results if isinstance(result, Exception)), None)
