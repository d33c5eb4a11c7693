"""What is wrong or risky about a host before and while its sidecar runs: `sidecar check`. Each finding says what to do."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from atlas import announcement as announcements
from sidecar.probe import is_listened_on
from sidecar.proxy import FIRST_WITH_DYNAMIC_BACKENDS, program_version, version_numbers
from sidecar.settings import Settings
from sidecar.tokens import bad_lines, parse_tokens
from smartrealm.errors import SmartError, Unavailable
from smartrealm.findings import Finding, worst_first
from smartrealm.wording import count, span

OLDEST_PROXY = (2, 6)
LEFT_FOR_SERVERS = 500
LEAST_FREE = 4_000_000
"""Bytes: a file for a thousand services and a map of ten thousand instances, each beside the one before."""
CLOCK_SECONDS = 2.0
"""By so much clocks may differ before it is told."""


def free_bytes(path: Path) -> int:
    """How much this user may still write there."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def examine(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    connect: bool = True,
    clock: Callable[[], float] = time.time,
    free_of: Callable[[Path], int] = free_bytes,
    descriptors: Callable[[], int] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1],
) -> list[Finding]:
    """Everything that can be found out from here, the worst first. Takes a few seconds where something does not answer."""
    runs = announcements.is_carried(settings.directory)
    found = [
        *_program(settings),
        *_directory(settings, free_of),
        *_ports(settings, runs),
        *_descriptors(settings, descriptors()),
        *_config(settings),
        *_agent(settings, runs),
        *_tokens(settings),
        *_announced(settings),
        *_kept(settings, clock()),
        *(_atlas(settings, environ, clock) if connect else ()),
    ]
    return worst_first(found)


def _program(settings: Settings) -> Iterator[Finding]:
    try:
        version = program_version(settings.haproxy)
    except SmartError as error:
        yield Finding("wrong", "haproxy", error.message, "Install HAProxy 2.6 or newer, or name it in SIDECAR_HAPROXY.")
        return
    numbers = version_numbers(version)
    if numbers < OLDEST_PROXY:
        yield Finding("wrong", "haproxy", f"HAProxy {version} is too old.", "Take 2.6 or newer.")
        return
    dynamic = numbers >= FIRST_WITH_DYNAMIC_BACKENDS
    how = "new services need no reload" if dynamic else "new services go into spare backends"
    yield Finding("good", "haproxy", f"HAProxy {version} ({settings.haproxy}): {how}.")
    try:
        told = subprocess.run([settings.haproxy, "-vv"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    if not re.search(r"prometheus|promex|\[PROMEX\]", told, re.IGNORECASE):
        yield Finding(
            "risky",
            "haproxy",
            "This HAProxy was built without its Prometheus exporter.",
            "Its file will not load: take a build with USE_PROMEX=1.",
        )


def _directory(settings: Settings, free_of: Callable[[Path], int]) -> Iterator[Finding]:
    for path, name in ((settings.directory, "SIDECAR_DIR"), (settings.state, "SIDECAR_STATE")):
        there = next(one for one in (path, *path.parents) if one.exists())
        if there == path and not path.is_dir():
            yield Finding("wrong", "directory", f"{path} is no directory.", f"Set {name} to another one.")
        elif not os.access(there, os.W_OK | os.X_OK):
            what = "written by this user" if there == path else f"made: this user may not write {there}"
            yield Finding("wrong", "directory", f"{path} cannot be {what}.", f"Set {name}, or give it to this user.")
        elif there == path and path.stat().st_mode & 0o002:
            yield Finding(
                "wrong", "directory", f"Everybody may write {path}, and say where calls go.", f"chmod o-w {path}"
            )
        elif (free := free_of(there)) < LEAST_FREE:
            says = f"{free / 1e6:.1f} MB are free for {path}, and its files would be written in part or not at all."
            yield Finding("wrong", "directory", says, f"`df -h {there}`, and make room. Calls go on meanwhile.")
        else:
            yield Finding("good", "directory", f"{path} ({name}){'' if there == path else ' will be made'}.")


def _ports(settings: Settings, runs: bool) -> Iterator[Finding]:
    # Who holds a port cannot be asked; but without a HAProxy, or an agent, of ours it is somebody else.
    calls = (settings.port, "SIDECAR_PORT", "calls", is_listened_on(settings.runtime_socket))
    page = (settings.admin_port, "SIDECAR_ADMIN_PORT", "the page", runs)
    for port, name, what, ours in [*([calls] if settings.loopback else []), *([page] if settings.admin_port else [])]:
        if _is_free(port):
            yield Finding("good", "port", f"Port {port} of 127.0.0.1 is free for {what}.")
            continue
        is_sidecar = _is_sidecar(port, settings)
        if ours and is_sidecar is None:
            says = f"Port {port} of 127.0.0.1, for {what}, is open, and nothing answers there: what holds it is frozen."
            yield Finding("wrong", "port", says, "`sidecar status` says what of this sidecar does not answer.")
        elif ours and is_sidecar:
            yield Finding("good", "port", f"Port {port} of 127.0.0.1 is that of this sidecar: {what}.")
        else:
            yield Finding(
                "wrong",
                "port",
                f"Port {port} of 127.0.0.1, for {what}, is taken by another {'sidecar' if is_sidecar else 'program'}.",
                f"`ss -ltnp 'sport = :{port}'` says which; else set {name} to a free one.",
            )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _is_sidecar(port: int, settings: Settings) -> bool | None:
    """Whether what answers there answers like a sidecar: 404 with a problem for a service that cannot be, or our status. None:
    nothing answers in time."""
    path = "/" if port == settings.port else "/healthcheck/live"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as asking:
            asking.settimeout(2)
            asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while chunk := asking.recv(8192):
                said += chunk
    except TimeoutError:
        return None
    except OSError:
        return False
    return b"problem+json" in said if port == settings.port else b'"service":"sidecar"' in said


def _descriptors(settings: Settings, limit: int) -> Iterator[Finding]:
    if limit == resource.RLIM_INFINITY:
        yield Finding("good", "descriptors", "The number of open files is not limited.")
        return
    fits = (limit - LEFT_FOR_SERVERS) // 2
    if fits >= settings.max_connections:
        yield Finding(
            "good", "descriptors", f"{limit:,} open files: enough for {settings.max_connections:,} connections."
        )
        return
    needed = 2 * settings.max_connections + LEFT_FOR_SERVERS
    yield Finding(
        "risky",
        "descriptors",
        f"{limit:,} open files leave room for {max(0, fits):,} connections, not for {settings.max_connections:,}.",
        f"LimitNOFILE={needed} in the unit, `ulimit -n {needed}`, or SIDECAR_MAX_CONNECTIONS={max(100, fits)}.",
    )


def _config(settings: Settings) -> Iterator[Finding]:
    if not settings.proxy_config.exists():
        yield Finding(
            "good", "config", f"{settings.proxy_config} is not there yet: the sidecar writes it at its start."
        )
        return
    try:
        told = _tried(settings)
    except OSError as error:
        yield Finding(
            "risky",
            "config",
            f"HAProxy's file could not be tried: {error.strerror or error}.",
            "Run this as the user of the sidecar, or as root.",
        )
        return
    if told is None:
        yield Finding("good", "config", f"HAProxy takes {settings.proxy_config}.")
        return
    advice = (
        "The sidecar writes it anew at its next change; `sidecar reload --why ...` now. What runs goes on meanwhile."
    )
    yield Finding("wrong", "config", f"HAProxy does not take {settings.proxy_config}: {told}", advice)


def _tried(settings: Settings) -> str | None:
    """What HAProxy finds wrong with the files that are in place, tried beside them."""
    from sidecar.files import check_files
    from sidecar.render import Files

    maps = {path.stem: path.read_text() for path in settings.proxy_maps.glob("*.map")}
    try:
        found = check_files(Files(settings.proxy_config.read_text(), maps), settings)
    except SmartError as error:
        return error.message
    return str(found[0]) if found else None


def _agent(settings: Settings, runs: bool) -> Iterator[Finding]:
    from sidecar.control import Control
    from sidecar.runtime import Runtime

    if not runs:
        told = f"No agent runs in {settings.directory}."
        try:
            pid = Runtime(settings.runtime_socket).info().pid
        except (Unavailable, OSError):
            yield Finding("good", "agent", told)
            return
        told += f" HAProxy (process {pid}) goes on with what it knew."
        yield Finding("wrong", "agent", told, "`sidecar up`, or the unit smartservice-sidecar.")
        return
    try:
        status = Control(settings.control_socket).get("/v1/status")
    except SmartError as error:
        yield Finding("wrong", "agent", error.message, "Its log says more; a restart of the agent ends no call.")
        return
    yield Finding("good", "agent", f"The agent runs (process {status['pid']}).")
    for trouble in status["troubles"]:
        if trouble["level"] != "note":
            level = "wrong" if trouble["level"] == "wrong" else "risky"
            yield Finding(
                "wrong" if level == "wrong" else "risky", trouble["topic"], trouble["says"], trouble["advice"]
            )


def _tokens(settings: Settings) -> Iterator[Finding]:
    path = settings.tokens_file
    if path is None:
        return
    try:
        mode, text = path.stat().st_mode, path.read_text(errors="replace")
    except OSError as error:
        yield Finding(
            "wrong",
            "tokens",
            f"{path} (SIDECAR_TOKENS) cannot be read ({error.strerror}), and without it nobody may call.",
            f"`sidecar token create CALLER --file {path}` makes it.",
        )
        return
    if bad := bad_lines(text):
        advice = "Each line is the name of a caller and the SHA-256 of its token, in hexadecimal digits."
        yield Finding("wrong", "tokens", f"Line {bad[0]} of {path} is no token.", advice)
    elif mode & 0o022:
        yield Finding("wrong", "tokens", f"Others may write {path}, and let themselves in.", f"chmod 600 {path}")
    else:
        yield Finding("good", "tokens", f"{count(len(parse_tokens(text)), 'token')} in {path}.")


def _announced(settings: Settings) -> Iterator[Finding]:
    try:
        entries = list(announcements.names(settings.announcements))
    except FileNotFoundError:
        return
    except OSError as error:
        advice = "Let this user read it: what is announced there is not known otherwise."
        yield Finding("wrong", "announced", f"{settings.announcements} cannot be read ({error.strerror}).", advice)
        return
    for entry in entries:
        try:
            announcements.read(Path(entry.path))
        except FileNotFoundError:
            continue
        except SmartError as error:
            advice = "Correct it, or take it back: `sidecar unregister`."
            yield Finding("wrong", "announced", f"{entry.path} is not used: {error.message}", advice)


def _kept(settings: Settings, now: float) -> Iterator[Finding]:
    kept = [path for path in (settings.state / "atlas").glob(f"{settings.realm}-*.json*") if path.is_file()]
    if not kept:
        yield Finding("good", "kept map", f"No map is kept in {settings.state} yet: the first start needs Atlas.")
        return
    newest = max(kept, key=lambda path: path.stat().st_mtime)
    age = span(now - newest.stat().st_mtime)
    yield Finding("good", "kept map", f"A map is kept for a start without Atlas: {newest}, written {age} ago.")


def _atlas(settings: Settings, environ: Mapping[str, str], clock: Callable[[], float]) -> Iterator[Finding]:
    import atlas
    from smartrealm.redaction import redact_text

    where = redact_text(settings.atlas_url) if settings.atlas_url else "the local realm's file"
    try:
        with atlas.open(settings.atlas_url, token=settings.atlas_token or None, environ=environ) as directory:
            before = clock()
            status = directory.status()
            after = clock()
    except SmartError as error:
        advice = (
            "It was asked with ATLAS_URL and ATLAS_TOKEN of this shell, which need not be those of the sidecar. "
            "A sidecar that has a kept map starts all the same."
        )
        yield Finding("wrong", "atlas", f"Atlas ({where}) gives no map: {error.message}", advice)
        return
    realm = status.get("server", {}).get("realm")
    if realm is not None and realm != settings.realm:
        yield Finding(
            "wrong",
            "atlas",
            f"Atlas ({where}) has the map of the realm {realm}, and this is {settings.realm}.",
            "Correct ATLAS_URL or REALM: no call may cross from one realm to another.",
        )
        return
    yield Finding("good", "atlas", f"Atlas ({where}) answered within {(after - before) * 1000:.0f} ms.")
    heard = max((float(lease.get("renewed_at") or 0.0) for lease in status.get("leases", ())), default=0.0)
    if heard - after > CLOCK_SECONDS:
        says = f"A lease was renewed {span(heard - after)} in the future of this host."
        yield Finding(
            "risky", "clock", says, "Rulings end by the clock, and ages are wrong: let the clocks be set (NTP)."
        )
