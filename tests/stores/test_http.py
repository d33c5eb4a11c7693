"""HTTP to the servers of etcd and Consul: deadlines, endpoints, connections, TLS."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from atlas.stores.address import Address
from atlas.stores.http import Endpoints
from smartrealm.errors import ConfigurationError, Unavailable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def read(url: str) -> Address:
    return Address.of(url, port=2379, options=("tls", "ca", "timeout_seconds"), example="etcd://host/atlas")


@contextmanager
def serving(talk: Callable[[socket.socket], object], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on a free port that has `talk` with each client."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def one(client: socket.socket) -> None:
            with suppress(OSError):
                talking = context.wrap_socket(client, server_side=True) if context else client
                with closing(talking):
                    talk(talking)
            client.close()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    stack.callback(client.close)
                    threading.Thread(target=one, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])


def answer(client: socket.socket) -> None:
    """Answer each request once, however many packets its head and its body come in."""
    with client.makefile("rb") as asked:
        while asked.readline():
            length = 0
            while (line := asked.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            asked.read(length)
            client.sendall(OK)


def drip(client: socket.socket) -> None:
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        client.sendall(b".")
        time.sleep(0.05)


def never(client: socket.socket) -> None:
    client.recv(65536)
    time.sleep(10)


@contextmanager
def endpoints(*ports: int, options: str = "") -> Iterator[Endpoints]:
    found = Endpoints(read(f"etcd://{','.join(f'127.0.0.1:{port}' for port in ports)}/x{options}"))
    with closing(found):
        yield found


@pytest.mark.parametrize("talk", [drip, never])
def test_the_whole_exchange_is_within_its_time(talk: Callable[[socket.socket], object]) -> None:
    """A server that sends a byte now and then, or nothing, cannot hold its caller."""
    with serving(talk) as port, endpoints(port) as asked:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="silent for too long"):
            asked.ask("GET", "/", None, {}, seconds=0.3, again=True)
        assert 0.25 < time.monotonic() - begun < 3


def test_a_read_has_time_left_for_the_next_endpoint() -> None:
    """Of two endpoints a silent one takes half of the time of the first read, and nothing of the second."""
    with serving(never) as silent, serving(answer) as awake, endpoints(silent, awake) as asked:
        begun = time.monotonic()
        assert asked.ask("GET", "/", None, {}, seconds=2, again=True).body == b"ok"
        first = time.monotonic() - begun
        assert asked.ask("GET", "/", None, {}, seconds=2, again=True).body == b"ok"
        assert time.monotonic() - begun - first < first


def test_connections_are_kept() -> None:
    """Requests one after the other go over one connection."""
    clients: list[object] = []

    def counting(client: socket.socket) -> None:
        clients.append(client)
        answer(client)

    with serving(counting) as port, endpoints(port) as asked:
        for _ in range(5):
            asked.ask("POST", "/", b"{}", {}, seconds=2, again=False)
        assert len(clients) == 1


def test_a_stream_ends_in_its_time() -> None:
    """Each line of a stream has a time of its own, whatever the stream was opened with."""

    def talk(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
        time.sleep(10)

    with (
        serving(talk) as port,
        endpoints(port) as asked,
        asked.stream("GET", "/", None, {}, seconds=5) as (status, next_line),
    ):
        assert (status, next_line(5)) == (200, b"first\n")
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            next_line(0.2)
        assert time.monotonic() - begun < 4


def certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1 and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "key.pem").write_bytes(key.private_bytes(*kinds))
    (directory / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.pem", directory / "key.pem")
    return context, directory / "ca.pem"


def test_tls_trusts_the_certificates_that_are_named(tmp_path: Path) -> None:
    """`ca` switches TLS on and is trusted; without it the same server is refused."""
    context, trusted = certificate(tmp_path)
    with serving(answer, context) as port:
        with endpoints(port, options=f"?ca={trusted}") as asked:
            assert asked.ask("GET", "/", None, {}, seconds=2, again=True).body == b"ok"
        with endpoints(port, options="?tls=true") as asked, pytest.raises(Unavailable, match="CERTIFICATE_VERIFY"):
            asked.ask("GET", "/", None, {}, seconds=0.3, again=True)


def test_certificates_that_cannot_be_read_are_told() -> None:
    """The file is named before anything is connected."""
    with pytest.raises(ConfigurationError, match=r"ca=/nowhere\.pem"):
        Endpoints(read("etcd://a/x?ca=/nowhere.pem"))
