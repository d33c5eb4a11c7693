"""The server, put together: one line for each thing that it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from flask import Response

import atlas
from atlas.directory import Directory
from atlas.server import api, pages
from atlas.server.auth import Doorkeeper, is_loopback
from atlas.server.follower import Backend, Follower, Pace
from healthcheck import Result
from smartrealm import ConfigurationError
from smartrealm.errors import Unavailable
from smartservice import SmartService, create_app

FIRST_TOKEN = "atlas --atlas STORE-URL token create operator YOUR-NAME"
"""How the first token is made: straight on the store, since nobody has one to ask a server with."""

_FIRST_WORLD_SECONDS = 0.5
NO_MAP_ABOVE: Mapping[str, Any] = {"ATLAS_URL": ""}
"""An Atlas does not take its own settings from an Atlas, nor register there."""


def make_app(
    *, environ: Mapping[str, str] | None = None, book: Backend | None = None, **overrides: Any
) -> SmartService:
    """The server over the store that ATLAS_STORE names, or over `book`. Nothing is connected, no thread is started.

    Raises ConfigurationError, also for settings that would let strangers in.
    """
    app = create_app("atlas.server.config", environ=environ, **NO_MAP_ABOVE, **overrides)
    is_open = _is_open(app)
    config = app.config
    pace = Pace(sweep=config["ATLAS_SWEEP_SECONDS"], most_waiting=config["THREADS"] - config["ATLAS_SPARE_THREADS"])
    follower = Follower(book or open_book(app, environ), draining=lambda: app.lifecycle.draining, pace=pace)
    app.extensions["atlas.follower"] = follower
    app.before_request(Doorkeeper(follower, is_open=is_open).let_in)
    app.after_request(_ask_for_token)
    api.install(app.api, follower)
    app.inbound.quiet |= api.CHATTER
    pages.install(app)
    app.health.add("store", lambda: store_health(follower), interval=1.0, dependency=True)
    _add_metrics(app, follower)
    app.lifecycle.on_close(follower.close)
    return app


def open_book(app: SmartService, environ: Mapping[str, str] | None = None) -> Backend:
    """The book over the store of the settings; nothing is connected yet. Raises ConfigurationError."""
    store, keys = app.config["ATLAS_STORE"], app.config["ATLAS_KEYS"]
    if not store and not app.realm.is_local:
        raise ConfigurationError(
            f"ATLAS_STORE is empty: in the realm {app.realm} say where the map is kept, as zookeeper://a,b,c/atlas."
        )
    if store.startswith(("http:", "https:")):
        raise ConfigurationError("ATLAS_STORE is another Atlas: name the store itself (sqlite:, zookeeper:, ...).")
    without = ("ATLAS_URL", "ATLAS_TOKEN")  # those are for whoever asks an Atlas
    known = {name: value for name, value in (os.environ if environ is None else environ).items() if name not in without}
    return cast(Backend, atlas.open(store or None, keys=keys or None, environ={**known, "REALM": str(app.realm)}))


def _is_open(app: SmartService) -> bool:
    """Whether nobody is asked for a token. Raises ConfigurationError where that would let strangers in."""
    wanted, host = app.config["ATLAS_OPEN"], app.config["HOST"]
    possible = app.realm.is_local and is_loopback(host)
    if wanted and not possible:
        where = f"HOST is {host}" if app.realm.is_local else f"the realm is {app.realm}"
        raise ConfigurationError(
            f"ATLAS_OPEN is on, but {where}: without tokens an Atlas serves the realm local on a loopback address only. "
            f"Switch it off and make the first token: {FIRST_TOKEN}"
        )
    return possible if wanted is None else bool(wanted)


def check_tokens(app: SmartService, book: Directory) -> None:
    """Raise ConfigurationError when tokens are needed and there is none; a store that does not answer is no reason to stop."""
    if _is_open(app):
        return
    try:
        has_tokens = bool(book.world().tokens)
    except Unavailable as error:
        app.logger.warning("starting without having seen the tokens: %s", error.message)
        return
    if not has_tokens:
        raise ConfigurationError(
            f"{app.config['HOST']} in the realm {app.realm} is not served without tokens, and there is none yet. "
            f"Was there a map in this store before? Then first the last export, which an empty store alone takes: "
            f"atlas --atlas STORE-URL import FILE. Else make the first one straight on the store: {FIRST_TOKEN}"
        )


def _ask_for_token(response: Response) -> Response:
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="atlas"'
    return response


def store_health(follower: Follower) -> Result:
    """Reads what the follower knows; also what begins to follow, before the first request."""
    follower.start()
    if follower.world is None:
        follower.wait_for_first(_FIRST_WORLD_SECONDS)
    if follower.world is None:
        return Result("fail", follower.problem or "the map has not been read yet")
    if follower.problem is not None:
        return Result("warn", f"serving from memory, {follower.age_seconds:.0f} s old: {follower.problem}")
    return Result("pass")


def _add_metrics(app: SmartService, follower: Follower) -> None:
    metrics = app.metrics
    if metrics is None:
        return

    def position(part: str) -> float:
        return 0.0 if follower.world is None else float(getattr(follower.world.position, part))

    def leases() -> float:
        return 0.0 if follower.world is None else float(len(follower.world.leases))

    metrics.gauge("atlas_readers_waiting", "Readers that wait for news.", lambda: float(follower.waiting))
    metrics.gauge("atlas_news_told", "Answers with news given to readers that waited.", lambda: float(follower.told))
    metrics.gauge("atlas_revision", "The revision of the catalogue.", lambda: position("revision"), over_workers="max")
    metrics.gauge(
        "atlas_revision_oldest", "The lowest of the workers'.", lambda: position("revision"), over_workers="min"
    )
    metrics.gauge("atlas_presence", "The revision of presence.", lambda: position("presence"), over_workers="max")
    metrics.gauge("atlas_leases", "Leases that are held.", leases, over_workers="max")
    metrics.gauge(
        "atlas_store_age_seconds",
        "Seconds since the store last answered a worker.",
        lambda: follower.age_seconds or 0.0,
        over_workers="max",
    )
