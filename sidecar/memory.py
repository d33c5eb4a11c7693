"""What the Planner keeps over a restart of the agent, in a file of JSON: what is held, and how often who came back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atlas.model import Instance, Ruling, Service, is_time
from sidecar.damping import Flaps
from sidecar.guard import Held, Watch
from sidecar.held_checks import held_addresses
from sidecar.history import History
from sidecar.model import Guard
from sidecar.usable import Terms, read_terms
from smartrealm.errors import ValidationFailed

FORMAT = 1

KEEP_SECONDS = 10.0
"""How often it is kept, when nothing of weight happens."""

_log = logging.getLogger("sidecar")


class MemoryFile:
    """The file, kept as often as it is worth it. `remember` gives what is to be in it. For one thread."""

    def __init__(
        self, path: Path, remember: Callable[[], Mapping[str, Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._remember = remember
        self._clock = clock
        self._due_at = 0.0
        self._guards: tuple[Guard, ...] = ()

    def keep_when_due(self, held: Collection[Guard]) -> None:
        """At once when more is held; when less is, as after a wiped map is filled again, not with every single return."""
        guards = tuple(held)
        rest = self._due_at - self._clock()
        grew = held_addresses(guards) > held_addresses(self._guards)
        if grew or rest <= 0 or (guards != self._guards and rest < KEEP_SECONDS - 1):
            self._guards = guards
            self.keep()

    def keep(self) -> None:
        """Write it whole, or leave the one before; a disk that takes nothing is logged."""
        self._due_at = self._clock() + KEEP_SECONDS
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._remember()))
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("what the guard holds cannot be kept in %s: %s", self._path.parent, error.strerror)


def read_file(path: Path) -> Any:
    """What `MemoryFile` kept; None when there is nothing that can be read."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None


def to_json(histories: Mapping[str, History], names: Mapping[str, str], *, now: float, today: float) -> dict[str, Any]:
    """All that is to be kept. Times are times of day: a monotonic clock ends with the machine."""
    services = {}
    for name, history in histories.items():
        flaps = {address: one for address, one in history.flaps.items() if not one.is_over(now)}
        if history.watch.held or flaps:
            services[name] = {
                "entry": history.usable.to_json() if history.watch.held and history.usable is not None else None,
                "entry_epoch": history.entry_epoch,
                "accepted": history.watch.accepted,
                "of": history.watch.of,
                "held": [_held_to_json(one) for one in history.watch.held.values()],
                "flaps": {address: _flaps_to_json(one, today - now) for address, one in flaps.items()},
            }
    return {"format": FORMAT, "services": services, "names": dict(names)}


def from_json(data: Any, *, now: float, today: float) -> tuple[dict[str, History], dict[str, str]]:
    """What `to_json` gave; what cannot be read is left out."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        return {}, {}
    histories = {}
    services, names = data.get("services"), data.get("names")
    for name, one in services.items() if isinstance(services, Mapping) else ():
        try:
            histories[str(name)] = _history(str(name), one, now - today, now)
        except Exception:  # of one service, and of no other
            continue
    known = names.items() if isinstance(names, Mapping) else ()
    return histories, {host: address for host, address in known if isinstance(host, str) and isinstance(address, str)}


def _history(name: str, data: Mapping[str, Any], shift: float, now: float) -> History:
    history = History(name)
    if data.get("entry") is not None:
        with suppress(ValidationFailed):
            history.entry = history.usable = Service.from_json(data["entry"])
            terms = read_terms(name, history.entry)
            history.terms = terms if isinstance(terms, Terms) else None
            history.entry_epoch = str(data.get("entry_epoch", ""))
    held = []
    for one in data.get("held", ()):
        with suppress(ValidationFailed, KeyError, TypeError, ValueError, AttributeError):
            held.append(_held(one))
    accepted = data.get("accepted", 0.0)
    history.watch = Watch(
        held={one.instance.address: one for one in held if one.instance.service == name},
        of=int(data.get("of", 0)),
        accepted=float(accepted) if is_time(accepted) else 0.0,
    )
    flaps = data.get("flaps", {})
    history.flaps = {str(address): _flaps(one, shift, now) for address, one in flaps.items()}
    return history


def _held_to_json(held: Held) -> dict[str, Any]:
    return {
        "instance": held.instance.to_json(),
        "ruling": None if held.ruling is None else held.ruling.to_json(),
        "since": held.since,
        "epoch": held.epoch,
    }


def _held(data: Mapping[str, Any]) -> Held:
    ruling = data.get("ruling")
    return Held(
        Instance.from_json(data["instance"]),
        None if ruling is None else Ruling.from_json(ruling),
        float(data["since"]),
        str(data.get("epoch", "")),
    )


def _flaps_to_json(flaps: Flaps, shift: float) -> dict[str, Any]:
    left_at = None if flaps.left_at is None else flaps.left_at + shift
    return {"returns": [time + shift for time in flaps.returns], "left_at": left_at}


def _flaps(data: Mapping[str, Any], shift: float, now: float) -> Flaps:
    """A time that a clock which was set back has put into the future is now."""
    left_at = data.get("left_at")
    returns = tuple(min(now, float(time) + shift) for time in data.get("returns", ()))
    return Flaps(returns, 0.0, None if left_at is None else min(now, float(left_at) + shift))
