"""What passes through HAProxy, service by service: its `show stat`, read when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sidecar.facts import Rate
from sidecar.servers import address_of

_SERVER, _BACKEND = "2", "1"


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
