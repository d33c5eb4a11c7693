"""From what HAProxy knows to what it is to know: the commands for its runtime socket, in an order that loses no request.

Servers are added before a map leads to them, maps are changed before servers go, and a server goes in two steps: it takes no
more calls at once (maintenance), and is deleted when the calls that it has are over. The first step is in `commands`; the
second is for whoever has both the leaving servers (`Runtime.read` gives those in maintenance apart from the State) and the
time: the agent asks for `removals` again and again until there are none. A leaving server is no drift.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

from sidecar.fields import check_server, is_backend, is_digest, is_service, refuse
from sidecar.layout import MAPS, map_file
from sidecar.model import Server, State

ADDED = "New server registered."
DELETED = "Server deleted."
BACKEND_ADDED = "New backend registered."
BACKEND_PUBLISHED = "Backend published."
DONE = ""
"""The answer to a command that worked and has nothing to say."""

CHECK = (
    "check inter 60s fastinter 1s downinter 1s fall 3 rise 3 observe layer7 error-limit 5 on-error mark-down slowstart 5s"
    " pool-purge-delay 1s"
)
"""How every server is looked after: a plain connection once a minute, and the answers that pass by. One that is down is looked
at every second, so that a HAProxy without its agent finds it again; `Ejections.kept_down` has it wait where its answers were bad.
Without `fastinter` an ejection would leave the time of the next look as it was. (`tcp-ut` would notice a host without power
sooner; a server that is added at run time takes none.)"""


@dataclass(frozen=True, slots=True)
class Command:
    """One line for the runtime socket."""

    text: str
    expects: str
    """The answer, without the white space around it, that says that it worked."""
    about: str
    """The service that it is done for, or the backend where none has it; for the message when it is refused."""


def commands(
    known: State, wanted: State, *, leaving: Mapping[str, Collection[str]] = {}, dynamic: bool = False
) -> list[Command]:
    """What takes HAProxy from `known` to `wanted`; nothing where both say the same.

    `leaving`: the servers in maintenance, by backend; one that is wanted again is set to work instead of being added.
    Backends that HAProxy lacks are made where it can (`dynamic`), else left out with all that leads to them: see
    `missing_backends`. Raises ValidationFailed for a value that may not be said.
    """
    change = _Change(known, wanted, leaving, dynamic)
    return [
        *change.new_backends(),
        *change.added_servers(),
        *change.published_backends(),
        *change.map_entries(),
        *change.changed_servers(),
        *change.parting_servers(),
    ]


def removals(leaving: Mapping[str, Collection[str]], wanted: State) -> list[Command]:
    """What deletes the servers in maintenance that nobody wants back. HAProxy refuses while a server has connections: then
    ask again later."""
    owners = _Owners(wanted)
    return [
        Command(f"del server {backend}/{name}", DELETED, owners.of(backend))
        for backend, names in leaving.items()
        for name in sorted(names)
        if name not in wanted.backends.get(backend, {})
    ]


def missing_backends(known: State, wanted: State) -> tuple[str, ...]:
    """The backends that HAProxy lacks: where it cannot make them, only a reload brings them."""
    return tuple(name for name in wanted.backends if name not in known.backends)


def server_words(server: Server, service: str) -> str:
    """What stands after the name of a server, in the file and in the command that adds it."""
    check_server(service, server)
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{host}:{server.port} {CHECK} weight {server.weight}{' backup' if server.backup else ''}"


def check_entry(name: str, key: str, value: str) -> None:
    """Raise ValidationFailed for an entry that may not stand in this map."""
    service, _, rest = key.partition("/")
    if name == "tokens":
        good = is_digest(key) and is_service(value)
        service = value
    elif name in ("timeouts", "limits-1", "limits-2", "limits-3"):
        good = is_service(key) and value.isascii() and value.isdigit() and len(value) <= 9
    elif name in ("once", "guarded"):
        good = is_service(key) and value == "1"
    elif name == "callers":
        good = is_service(service) and is_service(rest) and value == "1"
    else:
        good = name in MAPS and is_service(key) and is_backend(value)
    if not good:
        refuse(service, name, f"{key} {value}", "which is no entry of this map")


class _Owners:
    """Which service has which backend."""

    def __init__(self, *states: State) -> None:
        self._states = states

    def of(self, backend: str) -> str:
        return self._services.get(backend, backend)

    @cached_property
    def _services(self) -> Mapping[str, str]:
        return {
            backend: service
            for state in self._states
            for name in ("sides-3", "sides-2", "sides-1", "routes")
            for service, backend in state.maps.get(name, {}).items()
        }


class _Change:
    def __init__(self, known: State, wanted: State, leaving: Mapping[str, Collection[str]], dynamic: bool) -> None:
        self._known = known
        self._wanted = wanted
        self._leaving = leaving
        self._owners = _Owners(known, wanted)
        self._new = missing_backends(known, wanted)
        self._lacking = frozenset(() if dynamic else self._new)
        if not dynamic:
            self._new = ()
        self._pairs = [
            (name, known.backends.get(name, {}), servers)
            for name, servers in wanted.backends.items()
            if known.backends.get(name) is not servers and name not in self._lacking
        ]

    def new_backends(self) -> Iterator[Command]:
        for name in self._new:
            if not is_backend(name):
                refuse(name, "backend", name, "which is no name of a backend")
            yield Command(f"add backend {name} from _service mode http", BACKEND_ADDED, self._owners.of(name))

    def published_backends(self) -> Iterator[Command]:
        for name in self._new:
            yield Command(f"publish backend {name}", BACKEND_PUBLISHED, self._owners.of(name))

    def added_servers(self) -> Iterator[Command]:
        """New servers, those that come back, and those that take calls again."""
        for backend, before, after in self._pairs:
            for server in after.values():
                had = before.get(server.name)
                if had is None:
                    yield from self._begin(backend, server)
                elif not server.draining and had.draining and _same_place(had, server):
                    yield from self._weight(backend, server, had)
                    yield from self._ready(backend, server.name)

    def map_entries(self) -> Iterator[Command]:
        """First what is added or changed, in the order of MAPS, then what goes, the other way round: what a rule asks first goes
        first. A list of callers that ends is taken away after the mark that asks for it."""
        for name in MAPS:
            before, after = self._maps(name)
            for key, value in after.items() if before is not after else ():
                if before.get(key) == value or (name in _LEADING and value in self._lacking):
                    continue
                check_entry(name, key, value)
                verb = "set" if key in before else "add"
                yield self._entry(f"{verb} map {map_file(name)} {key} {value}", name, key)
        for name in reversed(MAPS):
            before, after = self._maps(name)
            for key in before if before is not after else ():
                if key not in after:
                    yield self._entry(f"del map {map_file(name)} {key}", name, key)

    def changed_servers(self) -> Iterator[Command]:
        """Weights, and servers that take no new calls from now on."""
        for backend, before, after in self._pairs:
            for server in after.values():
                had = before.get(server.name)
                if had is None or not _same_place(had, server) or (had.draining and not server.draining):
                    continue
                if server.draining and not had.draining:
                    yield self._state(backend, server.name, "drain")
                yield from self._weight(backend, server, had)

    def parting_servers(self) -> Iterator[Command]:
        """Servers that are gone, and those that lie somewhere else under their old name (they come anew once they are deleted)."""
        for backend, before, after in self._pairs:
            for name, had in before.items():
                if name not in after or not _same_place(had, after[name]):
                    yield self._state(backend, name, "maint")
        for backend, before in self._known.backends.items():
            if backend not in self._wanted.backends:
                for name in before:
                    yield self._state(backend, name, "maint")

    def _begin(self, backend: str, server: Server) -> Iterator[Command]:
        about = self._owners.of(backend)
        words = server_words(server, about)
        if server.name in self._leaving.get(backend, ()):
            yield Command(f"set server {backend}/{server.name} weight {server.weight}", DONE, about)
            if server.draining:
                yield self._state(backend, server.name, "drain")
            else:
                yield from self._ready(backend, server.name)
            return
        yield Command(f"add server {backend}/{server.name} {words}", ADDED, about)
        if server.draining:
            # Without its health it would count as down, and "drain" takes it out of maintenance.
            yield Command(f"enable health {backend}/{server.name}", DONE, about)
            yield self._state(backend, server.name, "drain")
            return
        # The health first: between the two a server without checks would take calls, and one with them is ready at once.
        yield Command(f"enable health {backend}/{server.name}", DONE, about)
        yield Command(f"enable server {backend}/{server.name}", DONE, about)

    def _weight(self, backend: str, server: Server, had: Server) -> Iterator[Command]:
        if server.weight != had.weight:
            check_server(self._owners.of(backend), server)
            text = f"set server {backend}/{server.name} weight {server.weight}"
            yield Command(text, DONE, self._owners.of(backend))

    def _ready(self, backend: str, name: str) -> Iterator[Command]:
        """Who was ejected before it drained is not any more: it comes back on the word of its own host, or of an operator. Else it
        would be down, unseen, until HAProxy is compared again."""
        yield Command(f"set server {backend}/{name} health up", DONE, self._owners.of(backend))
        yield self._state(backend, name, "ready")

    def _state(self, backend: str, name: str, state: str) -> Command:
        return Command(f"set server {backend}/{name} state {state}", DONE, self._owners.of(backend))

    def _maps(self, name: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return self._known.maps.get(name, {}), self._wanted.maps.get(name, {})

    def _entry(self, text: str, name: str, key: str) -> Command:
        return Command(text, DONE, "tokens" if name == "tokens" else key.partition("/")[0])


_LEADING = frozenset(["routes", "sides-1", "sides-2", "sides-3"])


def _same_place(one: Server, other: Server) -> bool:
    """Whether HAProxy could turn the one into the other. HAProxy writes some IPv6 addresses in another way than we do."""
    if one.port != other.port or one.backup != other.backup:
        return False
    return one.host == other.host or ip_address(one.host) == ip_address(other.host)
