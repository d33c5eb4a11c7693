"""The documents of a sidecar as lines for a terminal. Pure: what is printed is made of what HTTP answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smartrealm.wording import ago, count, moment, plain, some, span, table

Style = Callable[[str, str], str]
"""Text and the name of a colour; gives the text as it is where there are no colours."""

COLOURS = {"wrong": "red", "risky": "yellow", "note": "cyan", "well": "green", "good": "green"}
_STANDINGS = {
    "in": "green",
    "backup": "green",
    "held": "yellow",
    "draining": "yellow",
    "out": "red",
    "quarantined": "red",
}


def no_style(text: str, colour: str) -> str:
    return text


def status_lines(
    document: Mapping[str, Any], now: float, style: Style = no_style, rates: Mapping[str, Any] | None = None
) -> list[str]:
    """`sidecar status`: the sentence, what to look at, then the facts; with what `/v1/rates` answers, what passes through."""
    lines = [f"{style(document['state'], COLOURS[document['state']])}  {plain(document['says'])}"]
    troubles = list(document["troubles"])
    if troubles and document["says"].startswith(troubles[0]["says"]):  # the first line has told that one
        lines += _advice(troubles.pop(0))
    lines.append("")
    for trouble in troubles:
        lines.append(f"{style(format(trouble['level'], '<6'), COLOURS[trouble['level']])} {plain(trouble['says'])}")
        lines += _advice(trouble)
    if document["more_troubles"]:
        lines.append(f"       and {document['more_troubles']:,} more")
    if troubles:
        lines.append("")
    lines += [
        *_who(document, now),
        *_map(document, now),
        *_numbers(document),
        *_traffic(rates or {}),
        *_where(document),
    ]
    own = document["own"]
    if own:
        rows = [
            [
                one["service"],
                one["address"],
                one["state"],
                ago(one["since"], now) if one["since"] else "",
                one["reason"],
            ]
            for one in own
        ]
        lines += ["", *table(["own service", "instance", "state", "since", "why"], _plain(rows))]
    return lines


def _advice(trouble: Mapping[str, Any]) -> list[str]:
    return [f"{'':7}-> {plain(trouble['advice'])}"] if trouble["advice"] else []


def _who(document: Mapping[str, Any], now: float) -> Iterable[str]:
    zone = f", zone {plain(document['zone'])}" if document["zone"] else ""
    yield (
        f"sidecar   realm {document['realm']}, host {plain(document['host'])}{zone}; process {document['pid']}, "
        f"for {span(now - document['started_at'])}"
    )
    proxy, reloads = document["proxy"], document["reloads"]
    if proxy["running"]:
        told = f"version {proxy['version']}; process {proxy['pid']}, for {span(proxy['uptime_seconds'])}"
    else:
        told = "does not run"
    last = ""
    if reloads["last_at"]:
        last = f", the last {ago(reloads['last_at'], now)} ({plain(reloads['last_reason'])})"
    yield f"HAProxy   {told}; {count(reloads['count'], 'reload')}{last}"


def _map(document: Mapping[str, Any], now: float) -> Iterable[str]:
    known = document["map"]
    age = "" if known["age_seconds"] is None else f", {span(known['age_seconds'])} old"
    source = {"atlas": "from Atlas", "disk": "kept on disk", "none": "none yet"}[known["from"]]
    behind = "" if document["position"] == document["wanted"] else f", {document['wanted']} is on its way"
    yield f"map       {source}{age}; applied: revision {_revision(document['position'])} ({document['position']}){behind}"
    yield (
        f"changes   {document['changes']:,} applied, {document['refusals']['count']:,} refused, "
        f"{document['drift']['count']:,} times put right"
    )


def _revision(position: str) -> str:
    """Of `epoch.revision.presence` the number that `atlas history` tells."""
    return position.split(".")[-2] if position.count(".") >= 2 else position


def _numbers(document: Mapping[str, Any]) -> Iterable[str]:
    numbers = document["numbers"]
    shown = ("in", "backup", "draining", "out", "held", "quarantined", "ejected")
    told = ", ".join(f"{numbers[name]:,} {name}" for name in shown if numbers[name])
    yield f"routes    {count(numbers['services'], 'service')}, {count(numbers['instances'], 'instance')}{': ' + told if told else ''}"


def _traffic(rates: Mapping[str, Any]) -> Iterable[str]:
    flows = rates.get("services", {})
    if not flows:
        return
    sums = {name: sum(one[name] for one in flows.values()) for name in ("rate", "sessions", "requests", "errors")}
    failing = sorted(((one["errors"], name) for name, one in flows.items() if one["errors"]), reverse=True)
    whose = ": " + some([f"{name} {number:,}" for number, name in failing], 3) if failing else ""
    yield (
        f"traffic   {sums['rate']:,.4g} requests/s, {sums['sessions']:,} under way; since HAProxy was loaded "
        f"{sums['requests']:,} with {count(sums['errors'], 'error')}{whose}"
    )


def _where(document: Mapping[str, Any]) -> Iterable[str]:
    listens = document["listens"]
    calls = " and ".join(filter(None, (listens["url"], listens["socket"])))
    yield f"calls     {calls}{', with a token each' if listens['tokens'] else ''}"
    if listens["page"]:
        yield f"page      {listens['page']}"


def service_lines(
    document: Mapping[str, Any], rates: Mapping[str, Any], now: float, style: Style = no_style
) -> list[str]:
    """`sidecar status SERVICE`: the sentence, what holds for the service, its instances."""
    lines = [plain(document["says"])]
    rate = rates.get("services", {}).get(document["service"])
    if rate:
        lines.append(
            f"{rate['rate']:g} requests/s, {rate['sessions']} under way, {rate['requests']:,} so far, {rate['errors']:,} errors"
        )
    lines += [f"  - {plain(fact)}" for fact in document.get("facts", ())]
    if document["instances"]:
        rows = [
            [
                plain(one["address"]),
                style(one["standing"], _STANDINGS.get(one["standing"], "")),
                plain(one["reason"]),
                moment(one["since"], now),
                str(one["weight"]),
                plain(one.get("version", "")),
                plain(one.get("zone", "")),
                plain(one["says"]),
            ]
            for one in document["instances"]
        ]
        titles = ["instance", "state", "decided by", "since", "weight", "version", "zone", "why"]
        lines += ["", *table(titles, rows, ["weight"])]
    return lines


def _plain(rows: Iterable[Iterable[object]]) -> list[list[str]]:
    return [[plain(cell) for cell in row] for row in rows]
