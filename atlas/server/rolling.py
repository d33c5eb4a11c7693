"""A rolling restart: the instances of a service one by one, drained, handed to a command, awaited, enabled again.

It stops at the first failure. The instance that it holds then is given back when it is ready, else it stays drained; all
others are as they were. One walk of a service at a time: it holds the lease `roll@SERVICE`, which ends by itself when the
one who walks dies.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from atlas.keeper import Keeper
from atlas.model import Author, Instance, Lease, Ruling
from atlas.server import commanding, readiness, standing
from atlas.server.terminal import Session
from atlas.server.waiting import Waiting, limit_text
from atlas.server.wording import one_line
from atlas.world import Delta, Place, World
from smartrealm.errors import Conflict, SmartError, Unavailable
from smartrealm.wording import count, plain, span

REASON = "atlas roll"
"""How the reason of a ruling begins that a walk makes: what one has left drained is walked, and enabled, by the next one."""

_TTL_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_MOST_PROBES = 3


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to be done with each instance, and how long each step may take."""

    service: str
    command: str
    only: tuple[str, ...] = ()
    """Addresses; empty: all instances that nobody has taken out."""
    drain_seconds: float = 60.0
    command_seconds: float = 600.0
    ready_seconds: float = 120.0
    pause_seconds: float = 0.0
    restarts: bool = True
    """Whether the instance must come back with another incarnation."""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """Which instances are walked in which order, and which are left alone, each with the reason."""

    walked: tuple[Place, ...]
    left: tuple[tuple[Place, str], ...]


@dataclass(frozen=True, slots=True)
class Rolled:
    """One instance that went through."""

    address: str
    before: str
    after: str
    """Versions."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a walk ended. `failed` is the address at which it stopped, `says` why, `state` what became of that instance."""

    rolled: tuple[Rolled, ...]
    untouched: tuple[str, ...] = ()
    failed: str = ""
    says: str = ""
    state: str = ""
    left: tuple[tuple[str, str], ...] = ()
    """What was left alone on the way, each with the reason: taken out or gone since the walk began."""


class _Failed(Exception):
    """A step did not end well; its message says which, and how."""


def route(world: World, orders: Orders, now: float) -> Route:
    """Decide who is walked: what an earlier walk has left drained first, then by address. Pure.

    An instance that an operator has taken out, and one that is about to stop, is left alone unless it is named.
    """
    walked, left = [], []
    places = sorted(world.places(orders.service, now), key=lambda place: (place.instance.host, place.instance.port))
    for place in places:
        ruling = place.ruling
        if orders.only:
            if place.instance.address in orders.only:
                walked.append(place)
        elif ruling is not None and ruling.state != "enabled" and not is_ours(ruling):
            left.append((place, _told(ruling)))
        elif place.instance.draining:
            left.append((place, "about to stop"))
        else:
            walked.append(place)
    walked.sort(key=lambda place: place.takes_calls)
    return Route(tuple(walked), tuple(left))


def _told(ruling: Ruling) -> str:
    why = f": {one_line(ruling.reason)}" if ruling.reason else ""
    return f"{ruling.state} by {plain(ruling.author or 'somebody')}{why}"


def is_ours(ruling: Ruling | None) -> bool:
    """Whether a walk made it."""
    return ruling is not None and ruling.state == "draining" and ruling.reason.startswith(REASON)


def check_others(world: World, place: Place, orders: Orders, now: float) -> None:
    """Raise Conflict unless another instance of the service takes calls meanwhile."""
    address = place.instance.address
    others = [one for one in world.places(orders.service, now) if one.takes_calls and one.instance.address != address]
    if not others and not orders.force:
        raise Conflict(
            f"{orders.service} has no other instance that takes calls while {address} is away: start or enable one, "
            "or insist with --force."
        )


class Claim:
    """The lease that keeps a second walk of the same service away."""

    def __init__(self, session: Session, service: str) -> None:
        self._session = session
        self._service = service
        author = plain(session.author().name)[:100]
        self._lease = Lease(f"roll@{service}", f"{author} {secrets.token_hex(6)}", _TTL_SECONDS)
        self._keeper = Keeper(session.directory, lambda: self._lease)

    def __enter__(self) -> Claim:
        directory = self._session.directory
        known = directory.world().leases.get(self._lease.id)
        if known is not None and known.id not in standing.overdue_of(directory.status(), self._session.clock()):
            who = known.incarnation.rpartition(" ")[0] or "somebody"
            raise Conflict(
                f"{self._service} is being rolled already, by {plain(who)}: wait for its end. What was killed ends after "
                f"{_TTL_SECONDS:.0f} s by itself."
            )
        self.check()
        self._keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._keeper.close()

    def check(self) -> None:
        """Raise Conflict when somebody else has begun at the same moment."""
        try:
            self._session.directory.hold(self._lease)
        except Conflict:
            raise Conflict(
                f"Somebody else has begun to roll {self._service} at the same moment: this walk ends."
            ) from None


class Walk:
    """One walk. `say` is given each line of progress."""

    def __init__(self, session: Session, orders: Orders, claim: Claim, say: Callable[[str], None]) -> None:
        self._session = session
        self._directory = session.directory
        self._orders = orders
        self._claim = claim
        self._print = say
        self._author: Author = session.author(why=REASON)
        self._where = ""
        self._held: tuple[Instance, Ruling, int | None] | None = None
        """The instance that is drained now, the word to put back on it, and the weight that our own word has."""
        self._left: list[tuple[str, str]] = []
        self._asks = False
        """Whether the readiness of the instance that is held can be asked from here."""
        self._proven = False
        """Whether some instance has said from here that it is ready."""

    def run(self, places: Sequence[Place]) -> Outcome:
        """Walk them; never raises for what goes wrong on the way. What stops the program itself (Ctrl-C, TERM, HUP, a pipe that
        nobody reads) is told, and goes on once the instance is settled."""
        service = self._directory.world().services.get(self._orders.service)
        self._path = service.health_path if service is not None else "/healthcheck/ready"
        self._probe()
        rolled: list[Rolled] = []
        for number, place in enumerate(places, 1):
            address = place.instance.address
            self._where = f"[{number}/{len(places)}] {address}"
            untouched = tuple(one.instance.address for one in places[number:])
            try:
                done = self._one(place)
                if number < len(places) and self._orders.pause_seconds:
                    self._say(f"pausing for {span(self._orders.pause_seconds)}")
                    self._session.sleep(self._orders.pause_seconds)
            except (_Failed, SmartError) as error:
                says = error.message if isinstance(error, SmartError) else str(error)
                says, state = plain(says).rstrip("."), self._settle(address)
                return Outcome(tuple(rolled), untouched, address, says, state, tuple(self._left))
            except BaseException:  # Ctrl-C, TERM, HUP; nobody reads what is printed any more
                told = f"stopped at {address}, {self._settle(address)}; untouched: {', '.join(untouched) or 'none'}"
                with suppress(OSError):
                    self._print(told)
                raise
            if done is not None:
                rolled.append(done)
        return Outcome(tuple(rolled), left=tuple(self._left))

    def _one(self, place: Place) -> Rolled | None:
        begun = self._session.timer()
        orders, before = self._orders, place.instance
        self._claim.check()
        world = self._directory.world()
        now = self._session.clock()
        chosen = route(world, orders, now)
        present = {one.instance.address: one for one in chosen.walked}.get(before.address)
        if present is None:
            why = {one.instance.address: why for one, why in chosen.left}.get(before.address, "gone from the map")
            self._left.append((before.address, why))
            self._say(f"is left alone: it is {why}")
            return None
        before, previous = present.instance, present.ruling
        check_others(world, present, orders, now)
        self._ask_others(world, before, now)
        self._asks = self._is_ready(before) or (self._proven and not present.takes_calls)
        self._drain(world, before, previous)
        if self._orders.restarts and not before.incarnation:
            self._say(
                "does not say which start of it this is: whether it was started anew is taken from the command and its readiness"
            )
        self._command(before)
        after = self._come_back(before)
        revision, back = self._give_back()
        waited = Waiting(self._session, self._say).until(world, revision, (), orders.drain_seconds)
        if not waited.in_time:
            raise _Failed(f"it is enabled, but after {limit_text(orders.drain_seconds)} still: {waited.missing()}")
        seconds = self._session.timer() - begun
        done = "takes calls again" if back.state == "enabled" else f"is {_told(back)}, and stays so"
        self._say(f"{done} ({seconds:.1f} s)")
        return Rolled(before.address, before.version, after.version, round(seconds, 3))

    def _ask_others(self, world: World, instance: Instance, now: float) -> None:
        """Raise Conflict when none of the others answers: for some seconds the map still names those of a host that died."""
        if self._orders.force or not self._proven:
            return
        places = world.places(instance.service, now)
        others = [one.instance for one in places if one.takes_calls and one.instance.address != instance.address]
        if not any(self._is_ready(other) for other in others):
            raise Conflict(
                f"none of the others says that it is ready ({', '.join(one.address for one in others[:3])}): look there, or "
                "insist with --force"
            )

    def _drain(self, world: World, instance: Instance, previous: Ruling | None) -> None:
        reason = f"{REASON} by {self._author.name}" + (f": {self._session.why}" if self._session.why else "")
        weight = None if previous is None else previous.weight
        ruling = Ruling(instance.service, instance.host, instance.port, "draining", weight, reason[:2000])
        self._say(f"draining{f' version {plain(instance.version)}' if instance.version else ''}")
        back = Ruling(instance.service, instance.host, instance.port, weight=weight) if is_ours(previous) else previous
        self._held = (instance, back or Ruling(instance.service, instance.host, instance.port), weight)
        try:
            revision = self._directory.rule(ruling, by=self._author, force=self._orders.force)
        except Unavailable:
            raise
        except SmartError:
            self._held = None  # It was refused: nothing was written.
            raise
        waited = Waiting(self._session, self._say).until(world, revision, [instance.key], self._orders.drain_seconds)
        if not waited.in_time:
            raise _Failed(f"it was not drained within {limit_text(self._orders.drain_seconds)}: {waited.missing()}")
        known = self._directory.world().rulings.get(instance.key)
        if known is None or known.state == "enabled":
            raise _Failed("somebody has enabled it meanwhile, and the command would cost its calls")
        by = f", {count(waited.awaited.sidecars, 'sidecar')}" if waited.awaited.sidecars else ""
        self._say(f"drained ({waited.seconds:.1f} s{by}), running the command")

    def _command(self, instance: Instance) -> None:
        try:
            ran = commanding.run(
                self._orders.command,
                instance,
                seconds=self._orders.command_seconds,
                say=lambda line: self._say(f"| {plain(line)}"),
                environ=self._session.environ,
            )
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise _Failed(f"the command could not be run: {error.strerror or error}{where}") from None
        if not ran.is_good:
            raise _Failed(ran.told())

    def _come_back(self, before: Instance) -> Instance:
        """Wait until the instance is in the map again and ready."""
        begun, told = self._session.timer(), ""
        world, away = World(), ""
        while True:
            try:
                update = self._directory.wait(world.position, _LOOK_SECONDS)
                world, away = _after(world, update), ""
            except Unavailable as error:
                away = f"Atlas is away: {plain(error.message)}"
                self._session.sleep(_LOOK_SECONDS)
            instance = world.instances.get(before.service, {}).get(before.address)
            missing = away or self._missing(before, instance)
            if not missing and instance is not None:
                version = f" as version {plain(instance.version)}" if instance.version else ""
                self._say(f"is back{version} and ready ({self._session.timer() - begun:.1f} s)")
                return instance
            if self._session.timer() - begun >= self._orders.ready_seconds:
                raise _Failed(f"it was not back and ready within {limit_text(self._orders.ready_seconds)}: {missing}")
            if missing != told:
                told = missing
                self._say(f"waiting: {missing}")

    def _missing(self, before: Instance, instance: Instance | None) -> str:
        """What is missing until the instance may take calls; empty for nothing."""
        if instance is None:
            return "it is not in the map"
        if self._orders.restarts and before.incarnation and instance.incarnation == before.incarnation:
            return "it is still the one from before (--no-restart, if the command starts nothing anew)"
        if instance.draining:
            return "it says that it takes no calls"
        if self._asks:
            answer = readiness.ask(instance, self._path)
            return "" if answer == "ready" else f"{answer} at {self._path}"
        return ""

    def _give_back(self) -> tuple[int, Ruling]:
        """Put back what was the word on the instance before; gives the revision and the word that holds now. What somebody has
        said of it during the walk is newer, and stays."""
        assert self._held is not None
        instance, back, weight = self._held
        world = self._directory.world()
        known = world.rulings.get(instance.key)
        if known is None or not is_ours(known):
            self._held = None
            return world.position.revision, known or Ruling(instance.service, instance.host, instance.port)
        if back.expires_at is not None and back.expires_at <= self._session.clock():
            back = Ruling(instance.service, instance.host, instance.port)
        if known.weight != weight:
            back = replace(back, weight=known.weight)
        revision = self._directory.rule(back, by=self._author, force=True)
        self._held = None
        return revision, back

    def _settle(self, address: str) -> str:
        """After a failure: give the instance back when it is ready; says what became of it."""
        if self._held is None:
            return f"{address} is not drained"
        instance = self._held[0]
        enable = f"atlas enable {instance.service} {address}"
        try:
            present = self._directory.world().instances.get(instance.service, {}).get(address)
            if present is not None and not present.draining and (not self._asks or self._is_ready(present)):
                _, back = self._give_back()
                return f"{address} is ready and {'enabled again' if back.state == 'enabled' else _told(back)}"
        except SmartError as error:
            return f"{address} may be left draining ({plain(error.message).rstrip('.')}): {enable}"
        return f"{address} is not ready and stays drained; when it is: {enable}"

    def _is_ready(self, instance: Instance) -> bool:
        is_so = readiness.ask(instance, self._path) == "ready"
        self._proven = self._proven or is_so
        return is_so

    def _probe(self) -> None:
        """Find out whether readiness can be asked from here at all: elsewhere the word of the map is taken."""
        places = self._directory.world().places(self._orders.service, self._session.clock())
        asked = [place.instance for place in places if place.takes_calls][:_MOST_PROBES]
        if asked and not any(self._is_ready(one) for one in asked):
            self._print(
                f"GET {self._path} of no instance answers from here: whether one is ready is taken from the map"
            )

    def _say(self, line: str) -> None:
        self._print(f"{self._where} {line}")


def _after(world: World, update: World | Delta | None) -> World:
    if update is None:
        return world
    return update if isinstance(update, World) else world.apply(update)
