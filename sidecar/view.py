"""What an agent tells of itself and does when it is asked: the side of it that `sidecar.admin` sees. Safe from any thread."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from atlas.world import Position
from sidecar.facts import DoubtedServer, EjectedServer, Facts, ProxyFacts, Rate, Reloads
from sidecar.follower import Follower
from sidecar.lease import HostLease
from sidecar.local import Local
from sidecar.metrics import Timing
from sidecar.model import Plan
from sidecar.probe import is_listened_on
from sidecar.rates import parse_rates
from sidecar.runtime import Runtime
from sidecar.servers import address_of
from sidecar.settings import Settings
from sidecar.steering import Steering
from sidecar.tokens import TokensFile
from smartrealm.errors import SmartError

ANSWER_SECONDS = 5.0
"""How long somebody who asks the loop to do something waits for it."""

_log = logging.getLogger("sidecar")


@dataclass(frozen=True)
class Parts:
    """The parts of the agent that a View reads."""

    settings: Settings
    steering: Steering
    follower: Follower
    local: Local
    lease: HostLease
    tokens: TokensFile
    plan: Callable[[], Plan]


class View:
    """A `sidecar.admin.Source`. It reads the parts of the agent, and has the loop do what changes something (`soon`)."""

    def __init__(
        self,
        parts: Parts,
        *,
        accept: Callable[[str], tuple[str, ...]],
        soon: Callable[[Callable[[], Any]], Future[Any]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = parts.settings
        self.apply, self.propagation = Timing(), Timing()
        """How long changes took: from their arrival, and from when they were written, until HAProxy had them."""
        self._parts = parts
        self._steering = parts.steering
        self._accept = accept
        self._soon = soon
        self._clock, self._wall_clock = clock, wall_clock
        self._started_at = wall_clock()
        self._shown: tuple[Plan, Mapping[str, str], Plan] | None = None

    def plan(self) -> Plan:
        """What is to be routed now; the same object while nothing changed."""
        plan, barred = self._parts.plan(), self._steering.barred
        if not barred:
            return plan
        if self._shown is None or self._shown[0] is not plan or self._shown[1] is not barred:
            routes = {name: route for name, route in plan.routes.items() if name not in barred}
            self._shown = (plan, barred, replace(plan, routes=routes, quarantined={**plan.quarantined, **barred}))
        return self._shown[2]

    def accept(self, service: str, *, by: str, why: str) -> tuple[str, ...]:
        """Let the instances go that the guard holds; gives their addresses."""
        released = tuple(self._soon(lambda: self._accept(service)).result(ANSWER_SECONDS))
        _log.warning("%s accepts the loss of %d instances of %s: %s", by, len(released), service, why)
        return released

    def reload(self, *, why: str) -> object:
        """Load HAProxy anew as soon as it may be."""
        return self._soon(lambda: self._steering.ask_reload(why)).result(ANSWER_SECONDS)

    def rates(self) -> Mapping[str, Rate]:
        """What passes through each service, asked of HAProxy now. Raises Unavailable when it does not answer."""
        return parse_rates(Runtime(self.settings.runtime_socket).ask("show stat"), self._services())

    def facts(self) -> Facts:
        """What the agent knows of itself now."""
        parts, steering, settings = self._parts, self._steering, self.settings
        failures = (steering.files_failure, parts.follower.disk_failure)
        return Facts(
            pid=os.getpid(),
            started_at=self._started_at,
            version=_package_version(),
            realm=settings.realm,
            host=settings.host,
            zone=settings.zone,
            position=Position() if steering.applied is None else steering.applied.position,
            applied_at=steering.applied_at,
            map_from=parts.follower.source,
            map_age_seconds=parts.follower.age_seconds,
            map_failure=parts.follower.failure,
            proxy=self._proxy_facts(),
            changes=steering.counts.changes,
            drift_count=steering.counts.drift,
            drift_at=steering.drift_at,
            reloads=self._reloads(),
            refusals=steering.refusals,
            refusal_count=steering.counts.refusals,
            pending=steering.pending,
            pending_since=None if steering.reloads.wish is None else steering.reloads.wish.at,
            own=tuple(parts.local.own_instances()),
            unusable={**parts.local.problems(), **parts.lease.left_out},
            ejected=self._ejected(),
            ejections=steering.counts.ejections,
            doubted=self._doubted(),
            files_failure="; ".join(one.rstrip(".") for one in failures if one),
            tokens_failure=parts.tokens.trouble,
            lease_failure=parts.lease.failure,
            apply_seconds=self.apply.histogram(),
            propagation_seconds=self.propagation.histogram(),
            conditions=self._conditions(),
        )

    def _reloads(self) -> Reloads:
        steering = self._steering
        last, wish = steering.reloads.last, steering.reloads.wish
        return Reloads(
            steering.counts.reloads,
            steering.counts.failed_reloads,
            None if last is None else last.at,
            "" if last is None else last.why,
            steering.reloads.failure,
            self._wall_clock() + (steering.proxy.reload_due_in() if wish is not None else 0.0),
        )

    def _proxy_facts(self) -> ProxyFacts:
        process, running = self._steering.process, self._steering.process.running
        uptime = 0.0
        if running:
            with suppress(SmartError):
                uptime = float(Runtime(self.settings.runtime_socket, timeout_seconds=1.0).info().uptime_seconds)
        return ProxyFacts(
            version=process.version,
            pid=process.pid,
            uptime_seconds=uptime,
            running=running,
            dynamic=process.dynamic,
            away_since=None if running else process.away_since,
            failure=self._steering.failure or "",
            alive=not running and any(map(is_listened_on, (self.settings.master_socket, self.settings.runtime_socket))),
        )

    def _ejected(self) -> tuple[EjectedServer, ...]:
        services, now = self._services(), self._clock()
        today = self._wall_clock() - now
        return tuple(
            EjectedServer(
                services.get(one.backend, one.backend),
                address_of(one.server),
                one.since + today,
                one.due_at + today,
                one.reason,
            )
            for one in self._steering.ejections.all()
        )

    def _doubted(self) -> tuple[DoubtedServer, ...]:
        services, now = self._services(), self._clock()
        today = self._wall_clock() - now
        return tuple(
            DoubtedServer(
                services.get(one.backend, one.backend), address_of(one.server), one.since + today, one.times, one.reason
            )
            for one in self._steering.ejections.doubts(now)
            if one.server in self._steering.wanted.backends.get(one.backend, {})
        )

    def _conditions(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        services = self._services()
        for backend, servers in self._steering.conditions.items():
            wanted = self._steering.wanted.backends.get(backend, {})  # one that left may have had the same address
            for server, condition in servers.items():
                if condition != "up" and server in wanted:
                    found.setdefault(services.get(backend, backend), {})[address_of(server)] = condition
        return found

    def backends(self) -> Mapping[str, str]:
        """What each backend of HAProxy holds: a service, or a side of one (`identity:1`)."""
        layout = self._steering.layout
        return {} if layout is None else layout.owners()

    def _services(self) -> dict[str, str]:
        layout = self._steering.layout
        return {} if layout is None else layout.services()


def _package_version() -> str:
    try:
        return version("smartservice")
    except PackageNotFoundError:
        return ""
