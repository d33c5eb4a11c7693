"""Which backend of HAProxy holds which service, and what HAProxy is to know of all of them.

Before 3.4 HAProxy cannot make a backend at run time. So the file has some to spare: a service that is new moves into one, and
gives it back when it goes. When there is none left, the file is written anew, with every service in a backend of its own name.
Nothing is written or asked here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sidecar.fields import check_route
from sidecar.model import Route, Server, State

MAPS = (
    "timeouts",
    "once",
    "callers",
    "guarded",
    "sides-1",
    "sides-2",
    "sides-3",
    "limits-1",
    "limits-2",
    "limits-3",
    "tokens",
    "routes",
    "newer",
)
"""The maps of HAProxy, in the order in which entries are added: what a rule looks up last is there first."""

NEWER = "_newer"
"""The backend of a worker that a reload has replaced which leads to the one after it. The map of that name tells it so."""
USUAL_MS = 10_000
"""How long a service may take that the map of timeouts does not name."""
LEAST_SPARES = 40
"""A realm begins empty, each side of a split needs one too, and one takes 10 KB."""
_YES = "1"


def map_file(name: str) -> str:
    """By which name HAProxy knows a map: relative to its file, so that it is the same on every host."""
    return f"maps/{name}.map"


@dataclass(frozen=True, slots=True)
class _Done:
    """What has been laid out: the routes as they were placed, and the State that came of them."""

    routes: Mapping[str, Route] = field(default_factory=dict)
    state: State = field(default_factory=State)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which backend holds which service or side, and which backends hold none."""

    names: Mapping[str, str] = field(default_factory=dict)
    """By service, and by `service:1` to `service:3` for the sides of a split."""
    spares: tuple[str, ...] = ()
    """The next one to be used comes first. One that was given back comes last, so that it rests for as long as can be."""
    done: _Done = field(default=_Done(), repr=False, compare=False)
    """What `lay_out` remembers, so that it looks at what changed alone."""

    def owners(self) -> dict[str, str]:
        """What each backend holds: a service, or a side of one (`identity:1`)."""
        return {backend: key for key, backend in self.names.items()}

    def services(self) -> dict[str, str]:
        """The service of each backend that holds one."""
        return {backend: key.partition(":")[0] for key, backend in self.names.items()}


def keys_of(route: Route) -> list[str]:
    """What of a route needs a backend of its own."""
    return [route.service, *(f"{route.service}:{number}" for number in range(1, len(route.sides) + 1))]


def fresh_layout(routes: Mapping[str, Route], spare_backends: int = 0, *, dynamic: bool = False) -> Layout:
    """Every service in a backend of its own name: for a file that is loaded anew.

    `spare_backends` 0: a tenth of the services, and at least `LEAST_SPARES`; none where HAProxy makes backends at run time.
    """
    names = {key: key for service in sorted(routes) for key in keys_of(routes[service])}
    count = 0 if dynamic else spare_backends or max(LEAST_SPARES, -(-len(routes) // 10))
    return Layout(names, tuple(f"_spare_{number:03}" for number in range(1, count + 1)))


def adopt_layout(known: State) -> Layout:
    """The layout of an HAProxy that runs already: where its maps lead to, and the backends that they do not lead to."""
    names = dict(known.maps.get("routes", {}))
    for number in (1, 2, 3):
        names.update(
            (f"{service}:{number}", backend) for service, backend in known.maps.get(f"sides-{number}", {}).items()
        )
    names = {key: backend for key, backend in names.items() if backend in known.backends}
    used = set(names.values())
    return Layout(names, tuple(sorted((name for name in known.backends if name not in used), key=_preference)))


def lay_out(
    routes: Mapping[str, Route],
    layout: Layout,
    *,
    tokens: Mapping[str, str] = {},
    dynamic: bool = False,
    busy: Collection[str] = (),
) -> tuple[Layout, State, bool]:
    """The next layout, what HAProxy is to know, and whether a reload is needed because the spare backends do not suffice.

    Routes that are the same objects as last time are not looked at. A service without a backend is left out of the State
    until the reload; a side without one is left to the others of its service. `tokens`: digest -> caller. `dynamic`: this
    HAProxy makes backends at run time. `busy`: backends in which somebody's servers are still leaving; they are not given to
    another service yet. Raises ValidationFailed for a route that may not be written.
    """
    done = layout.done
    changed = [(name, route) for name, route in routes.items() if done.routes.get(name) is not route]
    gone = [name for name in done.routes if name not in routes]
    stale = () if done.state.backends else [key for key in layout.names if key.partition(":")[0] not in routes]
    if not changed and not gone and not stale and done.state.maps.get("tokens") == tokens:
        return layout, done.state, False
    draft = _Draft(layout, dynamic, busy)
    draft.entries("tokens", draft.maps["tokens"], tokens)
    for key in stale:
        draft.give_back([key])
    for name in gone:
        draft.remove(name)
    for _, route in changed:
        check_route(route)
    for _, route in changed:
        draft.place(route)
    return draft.finished()


class _Draft:
    """The next layout while it is being made. What does not change stays the same object."""

    def __init__(self, layout: Layout, dynamic: bool, busy: Collection[str]) -> None:
        self._dynamic = dynamic
        self._busy = busy
        self._reload = False
        self._names = dict(layout.names)
        self._spares = list(layout.spares)
        self._routes = dict(layout.done.routes)
        self._backends = dict(layout.done.state.backends)
        for name in (*self._names.values(), *self._spares):
            self._backends.setdefault(name, {})
        self.maps: dict[str, Mapping[str, str]] = {name: layout.done.state.maps.get(name, {}) for name in MAPS}
        self._copied: set[str] = set()

    def finished(self) -> tuple[Layout, State, bool]:
        state = State(self._backends, self.maps)
        return Layout(self._names, tuple(self._spares), _Done(self._routes, state)), state, self._reload

    def entries(self, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Bring one map from the entries of before to those of after."""
        if before == after:
            return
        if name not in self._copied:
            self._copied.add(name)
            self.maps[name] = dict(self.maps[name])
        entries = self.maps[name]
        assert isinstance(entries, dict)
        for key in before.keys() - after.keys():
            entries.pop(key, None)
        entries.update(after)

    def remove(self, service: str) -> None:
        """Take out a service that is gone, and give its backends back."""
        route = self._routes.pop(service)
        self._change(_entries(route, self._names), {})
        self.give_back(keys_of(route))

    def give_back(self, keys: Iterable[str]) -> None:
        """Nobody has these backends any more."""
        for key in keys:
            backend = self._names.pop(key, None)
            if backend is not None:
                self._backends[backend] = {}
                self._spares.append(backend)

    def place(self, route: Route) -> None:
        """Give a new or changed service its backends, and fill them."""
        before = self._routes.get(route.service)
        entries_before = {} if before is None else _entries(before, self._names)
        kept = set(keys_of(route))
        self.give_back([key for key in _keys_with_sides(route.service) if key not in kept])
        placed = self._with_backends(route)
        if placed is None:
            return
        self._routes[route.service] = placed
        self._fill(route.service, placed.servers)
        for number, side in enumerate(placed.sides, 1):
            self._fill(f"{route.service}:{number}", side.servers)
        self._change(entries_before, _entries(placed, self._names))

    def _with_backends(self, route: Route) -> Route | None:
        """The route as far as there are backends for it; None: there is none at all."""
        if not self._has_backend(route.service):
            return None
        for number in range(1, len(route.sides) + 1):
            if not self._has_backend(f"{route.service}:{number}"):
                kept, left = route.sides[: number - 1], route.sides[number - 1 :]
                self.give_back(f"{route.service}:{later}" for later in range(number, 4))
                servers = route.servers or tuple(server for side in left for server in side.servers)
                return replace(route, sides=kept, servers=servers)
        return route

    def _has_backend(self, key: str) -> bool:
        """Whether it has a backend, or could be given one."""
        if key in self._names:
            return True
        found = self._free(key)
        if found is None:
            self._reload = True
            return False
        self._names[key] = found
        self._backends.setdefault(found, {})
        return True

    def _free(self, key: str) -> str | None:
        """A backend that is free: the one of its own name, else a spare one; where backends can be made, a new one."""
        if key in self._spares:
            self._spares.remove(key)
            return key
        if self._dynamic and key not in self._backends:
            return key
        free = [name for name in self._spares if name not in self._busy]
        if not free:
            return None
        best = min(free, key=_is_somebodys)  # of those that are alike the first, which has rested longest
        self._spares.remove(best)
        return best

    def _fill(self, key: str, servers: tuple[Server, ...]) -> None:
        backend = self._names[key]
        wanted = {server.name: server for server in servers}
        if self._backends[backend] != wanted:
            self._backends[backend] = wanted

    def _change(self, before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> None:
        for name in MAPS:
            if name in before or name in after:
                self.entries(name, before.get(name, {}), after.get(name, {}))


def _entries(route: Route, names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the maps say of one route."""
    service = route.service
    entries = {"routes": {service: names[service]}}
    if route.timeout_ms != USUAL_MS:
        entries["timeouts"] = {service: str(route.timeout_ms)}
    if not route.repeatable:
        entries["once"] = {service: _YES}
    if route.callers is not None:
        entries["guarded"] = {service: _YES}
        entries["callers"] = {f"{service}/{caller}": _YES for caller in route.callers}
    for number, side in enumerate(route.sides, 1):
        entries[f"limits-{number}"] = {service: str(side.limit)}
        entries[f"sides-{number}"] = {service: names[f"{service}:{number}"]}
    return entries


def _keys_with_sides(service: str) -> list[str]:
    return [f"{service}:{number}" for number in (1, 2, 3)]


def _is_somebodys(backend: str) -> bool:
    """Whether it bears the name of a service: a stranger in it would be hard to understand, and its owner may come back."""
    return not backend.startswith("_spare_")


def _preference(backend: str) -> tuple[bool, str]:
    return (_is_somebodys(backend), backend)
