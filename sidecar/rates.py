"""What passes through HAProxy, service by service: its `show stat`, read when somebody looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from sidecar.facts import Rate
from sidecar.servers import address_of
from smartrealm.errors import Unavailable

FRESH_SECONDS = 1.0
"""For so long the rates that were asked for are told again, however many look."""

_SERVER, _BACKEND = "2", "1"


class FreshRates:
    """What `ask` says, asked once for all who look at the same time. Safe from any thread."""

    def __init__(self, ask: Callable[[], Mapping[str, Rate]], *, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._asking = threading.Lock()
        self._known: tuple[float, Mapping[str, Rate] | Unavailable] | None = None

    def get(self) -> Mapping[str, Rate]:
        """The rates. Raises Unavailable while HAProxy does not answer."""
        with self._asking:
            if self._known is None or not 0 <= self._clock() - self._known[0] < FRESH_SECONDS:
                try:
                    found: Mapping[str, Rate] | Unavailable = self._ask()
                except Unavailable as error:
                    found = error  # Kept as well: one that hangs is not asked by everybody in turn.
                self._known = (self._clock(), found)
            known = self._known[1]
        if isinstance(known, Unavailable):
            raise Unavailable(known.message)
        return known


def parse_rates(text: str, owners: Mapping[str, str]) -> dict[str, Rate]:
    """The answer to `show stat`, by service. `owners`: the service of each backend; the sides of a split are added up."""
    lines = text.strip().split("\n")
    columns = lines[0].lstrip("# ").split(",")
    at = {name: columns.index(name) for name in columns}
    found: dict[str, Rate] = {}
    servers: dict[str, dict[str, Rate]] = {}
    for line in lines[1:]:
        cells = line.split(",")
        service = owners.get(cells[0]) if len(cells) > at["type"] else None
        if service is None:
            continue
        kind = cells[at["type"]]
        one = _rate(cells, at)
        if kind == _SERVER:
            table = servers.setdefault(service, {})
            address = address_of(cells[1])
            table[address] = added(table[address], one) if address in table else one
        elif kind == _BACKEND:
            found[service] = added(found[service], one) if service in found else one
    return {service: replace(rate, servers=servers.get(service, {})) for service, rate in found.items()}


def added(one: Rate, other: Rate) -> Rate:
    """Both together."""
    return Rate(
        one.requests_per_second + other.requests_per_second,
        one.sessions + other.sessions,
        one.requests + other.requests,
        one.errors + other.errors,
    )


def _rate(cells: list[str], at: Mapping[str, int]) -> Rate:
    def number(name: str) -> int:
        cell = cells[at[name]] if name in at else ""
        return int(cell) if cell.isdigit() else 0

    return Rate(
        requests_per_second=number("rate"),
        sessions=number("scur"),
        requests=number("stot"),
        errors=number("hrsp_5xx") + number("econ") + number("eresp"),
    )
