"""Whether a realm is as it was: what is compared before and after each fault."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

from sidecar.control import Control
from smartrealm.errors import SmartError

CALLED = ("in", "backup")
HELD = "held: "
"""How the reason begins why an instance that the guard holds is not as before, although it is called."""


class Watch:
    """What the agent of this host says of itself and of the services that are drilled."""

    def __init__(self, control: Control, services: Collection[str]) -> None:
        self._control = control
        self._services = services

    def now(self) -> dict[str, str]:
        """Each condition, with the reason why it does not hold; empty: it does."""
        try:
            status = self._control.get("/v1/status")
            found = conditions_of(status)
            for service in self._services:
                found |= instances_of(self._control.get(f"/v1/routes/{quote(service, safe='')}"), status)
        except SmartError as error:
            return {"the agent": error.message}
        return found

    def missing(self, before: Collection[str]) -> dict[str, str]:
        """What held before and does not now."""
        now = self.now()
        if now.get("the agent"):
            return {"the agent": now["the agent"]}
        return {name: now.get(name, "it is not in the map") for name in before if now.get(name, "gone")}


def conditions_of(status: Mapping[str, Any]) -> dict[str, str]:
    """What `/v1/status` says of the sidecar itself."""
    proxy = status["proxy"]
    return {
        "the agent": "",
        "HAProxy": "" if proxy["running"] else proxy["failure"] or "it does not run",
        "the map": status["map"]["failure"]
        or ("" if status["map"]["from"] == "atlas" else "Atlas has not answered yet"),
        "the lease": status["lease_failure"] or "",
    }


def instances_of(route: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, str]:
    """What `/v1/routes/SERVICE` says of its instances, and why one is not called."""
    own = {(one["service"], one["address"]): one for one in status["own"]}
    found = {}
    for one in route["instances"]:
        why = "" if one["standing"] in CALLED and one.get("condition") not in ("down", "maint") else one["says"]
        why = f"{HELD}{why}" if one["standing"] == "held" else why
        mine = own.get((route["service"], one["address"]))
        if mine is not None and mine["state"] != "ready":
            why = f"{mine['state']}: {mine['reason']}"
        found[f"{route['service']} {one['address']}"] = why
    return found
