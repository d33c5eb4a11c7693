"""What is wrong or risky in a service's configuration, with the arithmetic. Pure: facts in, findings out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from smartrealm.findings import Finding, worst_first

_BOOTSTRAP = frozenset({"REALM", "CONFIG_FILE", "STATE_DIR", "SIDECAR_DIR", "FINGERPRINT_KEY"})

TOLD_SECONDS = 1.0
"""In less than this every sidecar of the realm has heard that an instance drains."""


@dataclass(frozen=True)
class Facts:
    """What the doctor looks at. `max_connections` and `health` are None where nobody was asked."""

    settings: Mapping[str, Any]
    realm: str
    environ: Mapping[str, str]
    drain_seconds: float
    max_connections: int | None = None
    health: Mapping[str, str] | None = None
    pending: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """Why the source of the configuration gives no answer."""
    sidecar: str = ""
    """Through which sidecar services are called; empty: directly."""
    sidecar_answers: bool | None = None
    """Whether it takes connections; None where it was not asked."""
    sidecar_wants_token: bool = False

    @property
    def is_local(self) -> bool:
        return self.realm == "local"


def examine(facts: Facts) -> list[Finding]:
    """Every finding, the worst first."""
    rules = (
        _stopping,
        _database,
        _redis,
        _threads,
        _probes,
        _exposure,
        _map,
        _calls,
        _reports,
        _names,
        _config,
        _health,
    )
    return worst_first(found for rule in rules for found in rule(facts))


def _stopping(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    interval, fall = get("PROBE_INTERVAL"), get("PROBE_FALL")
    needed, drain, graceful = interval * fall, facts.drain_seconds, get("GRACEFUL_SECONDS")
    sum_said = f"PROBE_INTERVAL {interval:g} s x PROBE_FALL {fall} = {needed:g} s"
    if drain <= needed and facts.sidecar and drain >= TOLD_SECONDS:
        yield Finding(
            "risky",
            "drain",
            f"DRAIN_SECONDS is {drain:g}: enough for callers behind sidecars, who are told at once. A load balancer that probes "
            f"needs {sum_said}.",
            f"Leave it where nobody but services calls this one; else set DRAIN_SECONDS to more than {needed:g}, or to None.",
        )
    elif drain <= needed:
        yield Finding(
            "wrong",
            "drain",
            f"{sum_said}, but DRAIN_SECONDS is {drain:g}: at each stop the load balancer still sends requests "
            "to an instance that has gone.",
            f"Set DRAIN_SECONDS to more than {needed:g}, or to None to have it reckoned.",
        )
    else:
        yield Finding("good", "drain", f"{sum_said} < DRAIN_SECONDS {drain:g} s")
    yield Finding(
        "good",
        "stop",
        f"a stop takes at most DRAIN_SECONDS {drain:g} + GRACEFUL_SECONDS {graceful:g} = {drain + graceful:g} s: "
        "TimeoutStopSec and terminationGracePeriodSeconds must be longer",
    )
    statement = get("DATABASE_STATEMENT_TIMEOUT")
    if get("DATABASE_URL") and not 0 < statement <= graceful:
        yield Finding(
            "risky",
            "timeouts",
            f"a statement may run {'for ever' if not statement else f'{statement:g} s'}, but a stop waits only "
            f"GRACEFUL_SECONDS {graceful:g}: such a request is cut.",
            "Set DATABASE_STATEMENT_TIMEOUT to at most GRACEFUL_SECONDS.",
        )
    if get("WORKER_CLASS") == "sync" and get("DATABASE_URL") and not 0 < statement < get("WORKER_TIMEOUT_SECONDS"):
        yield Finding(
            "risky",
            "timeouts",
            f"a sync worker is killed after WORKER_TIMEOUT_SECONDS {get('WORKER_TIMEOUT_SECONDS')}, "
            f"before DATABASE_STATEMENT_TIMEOUT {statement:g} ends a slow statement.",
            "Set DATABASE_STATEMENT_TIMEOUT below WORKER_TIMEOUT_SECONDS.",
        )


def _database(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if not get("DATABASE_URL"):
        return
    if get("DATABASE_URL").startswith("sqlite"):
        if not facts.is_local:
            yield Finding(
                "risky",
                "database",
                f"SQLite in realm {facts.realm}: its file is seen by one host only, and it takes one writer at a time.",
                "Set DATABASE_URL to a PostgreSQL server.",
            )
        return
    workers, threads = get("WORKERS"), get("THREADS") if get("WORKER_CLASS") == "gthread" else 1
    pool = get("DATABASE_POOL_SIZE") + get("DATABASE_POOL_OVERFLOW")
    used = min(pool, threads)
    total = workers * used
    said = f"WORKERS {workers} x min(THREADS {threads}, pool {get('DATABASE_POOL_SIZE')} + {get('DATABASE_POOL_OVERFLOW')}) = {total} connections per instance"
    if pool < threads:
        yield Finding(
            "risky",
            "database",
            f"{threads} threads share {pool} connections: under load requests wait and are answered 503 after "
            f"DATABASE_POOL_TIMEOUT {get('DATABASE_POOL_TIMEOUT'):g} s.",
            f"Set DATABASE_POOL_SIZE + DATABASE_POOL_OVERFLOW to at least THREADS ({threads}).",
        )
    most = facts.max_connections
    if most is None:
        yield Finding("good", "database", f"{said}; the server was not asked for its max_connections")
    elif 2 * total > most:
        yield Finding(
            "wrong" if total > most else "risky",
            "database",
            f"{said}; the server takes max_connections {most}: room for {most // total} instances, and a deploy runs old and new beside each other.",
            "Use fewer WORKERS or a smaller pool, raise max_connections, or put a pooler in between.",
        )
    else:
        yield Finding("good", "database", f"{said}; max_connections {most} has room for {most // total} instances")


def _redis(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if get("REDIS_URL") and get("WORKER_CLASS") == "gthread" and get("REDIS_MAX_CONNECTIONS") < get("THREADS"):
        yield Finding(
            "risky",
            "redis",
            f"THREADS {get('THREADS')} share REDIS_MAX_CONNECTIONS {get('REDIS_MAX_CONNECTIONS')}: under load some get none.",
            "Set REDIS_MAX_CONNECTIONS to at least THREADS.",
        )


def _threads(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if not facts.is_local and get("WORKERS") * (get("THREADS") if get("WORKER_CLASS") == "gthread" else 1) < 2:
        yield Finding(
            "risky", "threads", "one request at a time: a slow one blocks everybody.", "Raise WORKERS or THREADS."
        )


def _probes(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if get("MANAGEMENT_PORT") and get("MANAGEMENT_PORT") == get("PORT"):
        yield Finding(
            "wrong",
            "probes",
            f"MANAGEMENT_PORT and PORT are both {get('PORT')}.",
            "Give MANAGEMENT_PORT a port of its own.",
        )
    if not get("MANAGEMENT_PORT") and not facts.is_local:
        yield Finding(
            "risky",
            "probes",
            "MANAGEMENT_PORT is 0: while every thread is busy no probe is answered, and a busy instance is restarted.",
            "Set MANAGEMENT_PORT and point the liveness probe to it.",
        )
    if get("HEALTH_TIMEOUT") > get("HEALTH_INTERVAL"):
        yield Finding(
            "risky",
            "probes",
            f"HEALTH_TIMEOUT {get('HEALTH_TIMEOUT'):g} s is longer than HEALTH_INTERVAL {get('HEALTH_INTERVAL'):g} s.",
            "Set HEALTH_TIMEOUT below HEALTH_INTERVAL.",
        )


def _exposure(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    wide = [network for network in get("HEALTH_TRUSTED_NETWORKS") if network.endswith("/0")]
    if wide:
        yield Finding(
            "wrong",
            "exposure",
            f"HEALTH_TRUSTED_NETWORKS holds {', '.join(wide)}: everybody sees the details of the health checks.",
            "Name the networks of your probes, or use HEALTH_TOKEN.",
        )
    switches = [name for name in ("DEBUG", "TESTING") if facts.settings.get(name)]
    if switches and not facts.is_local:
        yield Finding("wrong", "exposure", f"{' and '.join(switches)} is on in realm {facts.realm}.", "Switch it off.")
    if get("LOG_LEVEL") == "DEBUG" and not facts.is_local:
        yield Finding(
            "risky", "logs", "LOG_LEVEL is DEBUG: much output.", "Use INFO, and a Smart-Debug header for one request."
        )


def _map(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if facts.is_local:
        return
    url = get("ATLAS_URL")
    if not url and facts.sidecar:
        yield Finding("good", "map", "no ATLAS_URL: the sidecar knows the map; settings change by a deploy only")
        return
    if not url:
        yield Finding(
            "risky",
            "map",
            f"no ATLAS_URL in realm {facts.realm}: nobody can find this service by name, it can call none by name, and its settings change by a deploy only.",
            "Set ATLAS_URL and ATLAS_TOKEN.",
        )
        return
    if url.startswith("http") and not get("ATLAS_TOKEN"):
        yield Finding(
            "wrong",
            "map",
            "ATLAS_URL names an `atlas serve`, and there is no ATLAS_TOKEN: it will refuse this service.",
            f"Run atlas token create service {get('SERVICE_NAME')} and set ATLAS_TOKEN.",
        )
    host = get("ADVERTISE_HOST") or get("HOST")
    if get("REGISTER") and (host.startswith("127.") or host in ("localhost", "::1")) and not facts.sidecar:
        yield Finding(
            "risky",
            "map",
            f"this instance registers as {host}, where other hosts find themselves instead.",
            "Set HOST to 0.0.0.0, or ADVERTISE_HOST to an address that others can reach.",
        )


def _calls(facts: Facts) -> Iterator[Finding]:
    get = facts.settings.__getitem__
    if not facts.sidecar:
        why = "SIDECAR_URL is empty" if get("SIDECAR_URL") == "" else "this host has no sidecar"
        yield Finding("good", "calls", f"services are called directly: {why}")
        return
    origin = "which SIDECAR_URL names" if get("SIDECAR_URL") else "the sidecar of this host"
    if facts.sidecar_answers is False:
        has_map = get("ATLAS_URL") or (facts.is_local and get("ATLAS_URL") is None)
        way = "calls go directly" if has_map else "no service can be called"
        yield Finding(
            "risky" if way == "calls go directly" else "wrong",
            "calls",
            f"{facts.sidecar}, {origin}, takes no connections: {way} until it does.",
            "Ask sidecar status, or set SIDECAR_URL to nothing to call directly for good.",
        )
    elif facts.sidecar_wants_token and not get("SIDECAR_TOKEN"):
        yield Finding(
            "wrong",
            "calls",
            f"the sidecar at {facts.sidecar} asks who calls, and there is no SIDECAR_TOKEN: every call is refused.",
            "Set SIDECAR_TOKEN to the token of this service, whose SHA-256 is in the tokens file of the sidecar.",
        )
    else:
        asked = "" if facts.sidecar_answers else "; it was not asked"
        yield Finding("good", "calls", f"services are called through {facts.sidecar}, {origin}{asked}")


def _reports(facts: Facts) -> Iterator[Finding]:
    if not facts.is_local and not facts.settings["BUGSNAG_API_KEY"]:
        yield Finding("risky", "reports", f"no error reports leave realm {facts.realm}.", "Set BUGSNAG_API_KEY.")
    if bool(facts.settings["BUGSNAG_ENDPOINT"]) != bool(facts.settings["BUGSNAG_SESSION_ENDPOINT"]):
        yield Finding(
            "wrong",
            "reports",
            "only one of BUGSNAG_ENDPOINT and BUGSNAG_SESSION_ENDPOINT is set.",
            "Set both or neither.",
        )


def _names(facts: Facts) -> Iterator[Finding]:
    """A variable of the environment that is nearly a setting is nearly always a typing mistake."""
    for name in facts.environ:
        if name in facts.settings or name in _BOOTSTRAP or not name.isupper():
            continue
        near = difflib.get_close_matches(name, _long(facts.settings), n=1, cutoff=0.88)
        if near:
            yield Finding(
                "risky", "names", f"the environment sets {name}, which is no setting.", f"Did you mean {near[0]}?"
            )


def _long(names: Iterable[str]) -> list[str]:
    return [name for name in names if len(name) >= 6]


def _config(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.refused:
        yield Finding("wrong", "config", f"the last update was refused: {sentence}", "Correct it at its source.")
    for sentence in facts.silent:
        yield Finding(
            "wrong",
            "config",
            f"the source gives no overrides: {sentence}",
            "Bring the source back; until then its last good answer is in force, else the defaults.",
        )
    if facts.pending:
        yield Finding(
            "risky", "config", f"{', '.join(facts.pending)} changed and wait for a restart.", "Restart the service."
        )


def _health(facts: Facts) -> Iterator[Finding]:
    for name, output in (facts.health or {}).items():
        yield Finding(
            "wrong", "health", f"the check {name} fails: {output}", "See flask config explain for what it uses."
        )
    if facts.health is not None and not facts.health:
        yield Finding("good", "health", "every check passes")
