"""Every setting of the framework with its default: the lowest layer. A service's config module overrides what it names.

The line above a name is its description in `flask config explain` and in the reference. `Secret` values are never
shown; a change of a `NeedsRestart` value at run time is reported as pending until the process starts anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from smartconfig import NeedsRestart, Secret

# The name of this service in its realm; taken from the package of the config module when empty.
SERVICE_NAME: NeedsRestart[str] = ""
# What is running here: a version or a commit. Shown in health, logs, metrics and error reports.
RELEASE: NeedsRestart[str] = ""

# Signs cookies and sessions (Flask). There is no default: a service that uses sessions sets its own.
SECRET_KEY: Secret[str | None] = None

# Where the map of the realm is: an `atlas serve` (http://a,b) or a store. Empty: none. None: the machine's own in realm local.
ATLAS_URL: NeedsRestart[str | None] = None
# The token with which this service asks an `atlas serve`: `atlas token create service NAME`.
ATLAS_TOKEN: Secret[str] = ""
# Whether an instance registers itself in the map while no sidecar of its host does it.
REGISTER: NeedsRestart[bool] = True
# The address under which others reach this instance; empty: HOST, or this host's own where HOST is every address.
ADVERTISE_HOST: NeedsRestart[str] = ""
# The port under which others reach this instance; 0: PORT.
ADVERTISE_PORT: NeedsRestart[int] = 0
# The zone in which this instance runs; calls stay in their zone while it is healthy.
ZONE: NeedsRestart[str] = ""
# This instance's share of the calls beside the others, 0 to 1000.
WEIGHT: NeedsRestart[int] = 100
# Seconds after which an instance that gives no sign of life is taken out of the map.
LEASE_SECONDS: NeedsRestart[float] = 15.0

# The local HAProxy through which others are called: http://127.0.0.1:port or unix:///path. None: this host's sidecar, if any. Empty: none.
SIDECAR_URL: NeedsRestart[str | None] = None
# Shows the sidecar who calls, where it asks for that.
SIDECAR_TOKEN: Secret[str] = ""
# Which headers name the one for whom a request is made; the first that is there decides on which side of a split that one is.
SPLIT_KEY_HEADERS: NeedsRestart[list[str]] = ["Smart-User", "X-User-Id"]
# Which cookies do, where none of the headers is there; without those either, chance decides.
SPLIT_KEY_COOKIES: NeedsRestart[list[str]] = ["session"]
# Another salt puts everybody on another side; the same in the whole realm and in its sidecars. Empty: the name of the realm.
SPLIT_SALT: NeedsRestart[str] = ""
# Seconds that a call to another service may take in all, when neither the caller nor the map says it.
CALL_DEADLINE: NeedsRestart[float] = 10.0
# How often a failed call may be repeated, where that is safe.
CALL_RETRIES: NeedsRestart[int] = 2
# Entries of the W3C baggage that are passed on to every service that is called.
CALL_TAGS: NeedsRestart[list[str]] = []

# Where the database is: postgresql://user@host/name or sqlite:///file.db. Empty: this service has none.
DATABASE_URL: Secret[str] = ""
# Connections that each worker process keeps open to the database.
DATABASE_POOL_SIZE: NeedsRestart[int] = 5
# Connections that each worker process may open beyond the pool for a moment.
DATABASE_POOL_OVERFLOW: NeedsRestart[int] = 5
# Seconds that a request waits for a free connection before it is answered 503.
DATABASE_POOL_TIMEOUT: NeedsRestart[float] = 2.0
# Seconds to wait for a new connection; PostgreSQL's client takes anything below 2 as 2.
DATABASE_CONNECT_TIMEOUT: NeedsRestart[int] = 2
# Seconds after which PostgreSQL ends a statement; 0 for no limit.
DATABASE_STATEMENT_TIMEOUT: NeedsRestart[float] = 30.0
# Seconds after which a pooled connection is replaced when it is next used.
DATABASE_RECYCLE: NeedsRestart[int] = 1800
# The directory that holds versions/ with the migrations, relative to the working directory.
MIGRATIONS_DIRECTORY: NeedsRestart[str] = "migrations"

# Where Redis is: redis://host:6379/0. Empty: this service has none.
REDIS_URL: Secret[str] = ""
# Seconds that one Redis command may take.
REDIS_TIMEOUT: NeedsRestart[float] = 0.5
# Seconds to wait for a new connection to Redis.
REDIS_CONNECT_TIMEOUT: NeedsRestart[float] = 0.5
# Connections that each worker process may hold to Redis.
REDIS_MAX_CONNECTIONS: NeedsRestart[int] = 50

# The lowest level that is logged.
LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
# json (one object a line), text (for people), or auto: text in a terminal, json elsewhere.
LOG_FORMAT: NeedsRestart[Literal["auto", "json", "text"]] = "auto"
# Signs the Smart-Debug header, which raises one request to debug level. Empty: the header is ignored.
DEBUG_HEADER_KEY: Secret[str] = ""

# The project's Bugsnag key. Empty: error reports are printed in the local realm and dropped elsewhere.
BUGSNAG_API_KEY: Secret[str] = ""
# Where error reports are sent, when not to Bugsnag itself.
BUGSNAG_ENDPOINT: NeedsRestart[str] = ""
# Where sessions are sent; goes together with BUGSNAG_ENDPOINT.
BUGSNAG_SESSION_ENDPOINT: NeedsRestart[str] = ""

# Where the health checks answer; empty switches the routes off.
HEALTH_PATH: NeedsRestart[str] = "/healthcheck"
# A bearer token that shows the details of the health checks to a caller outside of the trusted networks.
HEALTH_TOKEN: Secret[str] = ""
# Networks whose callers see the details of the health checks.
HEALTH_TRUSTED_NETWORKS: NeedsRestart[list[str]] = ["127.0.0.0/8", "::1/128"]
# Seconds between two runs of each health check.
HEALTH_INTERVAL: NeedsRestart[float] = 5.0
# Seconds that one health check may take.
HEALTH_TIMEOUT: NeedsRestart[float] = 2.0
# The share of the disk under the working directory that must be free; 0 switches the check off.
HEALTH_DISK_FREE: NeedsRestart[float] = 0.02

# Where Prometheus reads the metrics; empty switches them off.
METRICS_PATH: NeedsRestart[str] = "/metrics"
# Where the service describes itself in OpenAPI; empty switches the route off.
OPENAPI_PATH: NeedsRestart[str] = "/openapi.json"

# The address that gunicorn binds.
HOST: NeedsRestart[str] = "127.0.0.1"
# The port that gunicorn binds.
PORT: NeedsRestart[int] = 8000
# Worker processes.
WORKERS: NeedsRestart[int] = 2
# Threads in each gthread worker process.
THREADS: NeedsRestart[int] = 8
# gthread (threads) or sync (one request at a time in each process).
WORKER_CLASS: NeedsRestart[Literal["gthread", "sync"]] = "gthread"
# Seconds that an idle connection is kept open for the next request; longer than the load balancer's own.
KEEPALIVE_SECONDS: NeedsRestart[int] = 5
# Seconds after which a worker that gives no sign of life is replaced; for sync also the longest request.
WORKER_TIMEOUT_SECONDS: NeedsRestart[int] = 30
# Requests after which a worker is replaced, with a random tenth added; 0 for never.
WORKER_MAX_REQUESTS: NeedsRestart[int] = 0
# Seconds between two readiness probes of the load balancer in front; for the arithmetic of the drain.
PROBE_INTERVAL: NeedsRestart[float] = 2.0
# Failed probes after which the load balancer takes an instance out.
PROBE_FALL: NeedsRestart[int] = 2
# Seconds of serving on with readiness red after SIGTERM (Ctrl-C stops at once); None for PROBE_INTERVAL x PROBE_FALL and 2 more.
DRAIN_SECONDS: NeedsRestart[float | None] = None
# Seconds that requests in flight may still take after the drain.
GRACEFUL_SECONDS: NeedsRestart[int] = 30
# The port on which each worker answers probes even when all its threads are busy; 0 for none.
MANAGEMENT_PORT: NeedsRestart[int] = 0
# Seconds of no finished request with every thread busy after which a worker counts as wedged.
WEDGED_SECONDS: NeedsRestart[float] = 60.0


_LEAST = {
    "DATABASE_POOL_SIZE": 1,
    "DATABASE_POOL_OVERFLOW": 0,
    "DATABASE_POOL_TIMEOUT": 0,
    "DATABASE_CONNECT_TIMEOUT": 1,
    "DATABASE_STATEMENT_TIMEOUT": 0,
    "REDIS_TIMEOUT": 0,
    "REDIS_CONNECT_TIMEOUT": 0,
    "REDIS_MAX_CONNECTIONS": 1,
    "HEALTH_INTERVAL": 0.1,
    "HEALTH_TIMEOUT": 0.01,
    "HEALTH_DISK_FREE": 0,
    "PORT": 0,
    "ADVERTISE_PORT": 0,
    "WEIGHT": 0,
    "LEASE_SECONDS": 1,
    "CALL_DEADLINE": 0.001,
    "CALL_RETRIES": 0,
    "WORKERS": 1,
    "THREADS": 1,
    "KEEPALIVE_SECONDS": 0,
    "WORKER_TIMEOUT_SECONDS": 0,
    "WORKER_MAX_REQUESTS": 0,
    "PROBE_INTERVAL": 0,
    "PROBE_FALL": 0,
    "DRAIN_SECONDS": 0,
    "GRACEFUL_SECONDS": 0,
    "MANAGEMENT_PORT": 0,
    "WEDGED_SECONDS": 0,
}
_URL = re.compile(r"[a-z][a-z0-9+._-]*://.*")
_SIDECAR_URL = re.compile(r"http://[^/?#]+/?|unix:///[^?#]+")
_WORD = re.compile(r"[A-Za-z0-9._-]{0,64}")
_REDIS_URL = re.compile(r"(redis|rediss|unix)://.*")


def validate(config: Mapping[str, Any]) -> Iterator[str]:
    """What no type can say: least values, ports, what a URL looks like. A service's own settings are told together."""
    for name, least in _LEAST.items():
        if config[name] is not None and config[name] < least:
            yield f"{name} is {config[name]!r}: it must be at least {least}."
    for name in ("PORT", "MANAGEMENT_PORT", "ADVERTISE_PORT"):
        if config[name] > 65535:
            yield f"{name} is {config[name]}: a port is at most 65535."
    if config["MANAGEMENT_PORT"] and config["MANAGEMENT_PORT"] == config["PORT"]:
        yield f"MANAGEMENT_PORT is {config['PORT']}, as PORT is: give the management listener a port of its own."
    if config["WEIGHT"] > 1000:
        yield f"WEIGHT is {config['WEIGHT']}: a share is at most 1000."
    if config["SIDECAR_URL"] and not _SIDECAR_URL.fullmatch(config["SIDECAR_URL"]):
        yield "SIDECAR_URL is no URL of a proxy: use http://127.0.0.1:port, or unix:///path of its socket."
    if not _WORD.fullmatch(config["SPLIT_SALT"]):
        yield "SPLIT_SALT holds other characters than letters, digits and . _ -, or more than 64: sidecars take no others."
    for name in ("SPLIT_KEY_HEADERS", "SPLIT_KEY_COOKIES"):
        for one in config[name]:
            if not _WORD.fullmatch(one) or not one:
                yield f"{name} holds {one!r}: a name has 1 to 64 letters, digits and . _ -"
    if not (config["SIDECAR_TOKEN"].isascii() and config["SIDECAR_TOKEN"].isprintable()):
        yield "SIDECAR_TOKEN holds a line break or another character that no header can carry."
    if config["DATABASE_URL"] and not _URL.fullmatch(config["DATABASE_URL"]):
        yield "DATABASE_URL is no URL: use postgresql://user@host/name or sqlite:///file.db."
    if config["REDIS_URL"] and not _REDIS_URL.fullmatch(config["REDIS_URL"]):
        yield "REDIS_URL is no URL of a Redis: use redis://host:6379/0 (or rediss://, unix://)."
    for name in ("HEALTH_PATH", "METRICS_PATH", "OPENAPI_PATH"):
        if config[name] and not config[name].startswith("/"):
            yield f"{name} is {config[name]!r}: a path begins with a slash."
