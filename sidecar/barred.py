"""Services that HAProxy will not have: set aside with the reason until something about them changes, so that the others go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sidecar.fields import check_route
from sidecar.model import Route
from smartrealm.errors import ValidationFailed

_log = logging.getLogger("sidecar")


class Barred:
    """For one thread; `reasons` may be read from others, and is the same object while nothing changes."""

    def __init__(self) -> None:
        self.reasons: Mapping[str, str] = {}
        """By service: why HAProxy will not have it."""
        self._routes: Mapping[str, Route] = {}

    def add(self, routes: Mapping[str, Route], reasons: Mapping[str, str]) -> None:
        """Set these aside, too."""
        self._set(routes, {**self.reasons, **reasons})

    def writable(self, routes: Mapping[str, Route], written: Mapping[str, Route] = {}) -> Mapping[str, Route]:
        """The routes that may be written. A planner gives nothing else; this is the second lock of that door. What was
        `written` before is not looked at again."""
        barred = {name: why for name, why in self.reasons.items() if routes.get(name) is self._routes.get(name)}
        for name, route in routes.items():
            if written.get(name) is not route and name not in barred:
                try:
                    check_route(route)
                except ValidationFailed as error:
                    barred[name] = str(error)
        self._set(routes, barred)
        return {name: route for name, route in routes.items() if name not in barred} if barred else routes

    def _set(self, routes: Mapping[str, Route], reasons: Mapping[str, str]) -> None:
        for name in reasons.keys() - self.reasons.keys():
            _log.error("%s is set aside, HAProxy will not have it: %s", name, reasons[name])
        self.reasons = reasons
        self._routes = {name: routes[name] for name in reasons}
