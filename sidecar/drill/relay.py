"""A wire that can be cut: a TCP relay between a program and a server, for realms that are built with one in between."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Passes bytes on from a loopback port to another one. `with relay.cut():` it passes nothing: new connections are
    accepted by the kernel and stay silent, open ones are silent too, as after a cable was pulled. Afterwards what was held up
    goes on, as TCP does."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._over = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="drill-relay", daemon=True)

    def start(self) -> Relay:
        self._thread.start()
        return self

    @contextmanager
    def cut(self) -> Iterator[None]:
        """A partition: packets are lost, nothing is refused. Undone at the end of the block.

        A correct system notices by its own clock, goes on with what it knows, and asks again when it is over.
        """
        self._whole.clear()
        try:
            yield
        finally:
            self._whole.set()

    def close(self) -> None:
        """End every connection and accept no more."""
        self._over = True
        self._whole.set()
        for one in (self._listener, *tuple(self._open)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), name="drill-wire", daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._to), 5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for one in (near, far):
            self._open.add(one)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._pass, args=(far, near), name="drill-wire", daemon=True)
        back.start()
        self._pass(near, far)
        back.join()
        for one in (near, far):
            self._open.discard(one)
            one.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
        for one in (source, sink):  # one end of a wire that ended ends both
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
