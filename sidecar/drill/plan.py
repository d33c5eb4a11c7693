"""What a drill is going to do: which fault happens to what, for how long, what is expected, how it is undone. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from sidecar.drill.expectations import FAULTS, Rule, rule_of
from sidecar.drill.load import Traffic
from sidecar.drill.scene import Scene, Target
from smartrealm.errors import ConfigurationError

MOST_SECONDS = 60.0
MOST_SERVICES = 16
PRODUCTION = ("production", "prod", "live")
REST_SECONDS = 4.0
"""Roughly what is between two faults: the realm recovers."""

_ORDER = ("agent", "haproxy", "atlas", "program", "instance", "remote")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for."""

    seconds: float = 5.0
    """How long each fault lasts."""
    total: float = 600.0
    """After which no fault begins any more."""
    only: tuple[str, ...] = ()
    """`freeze`, `kill:agent`, `flap:identity`; empty: everything."""
    skip: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    recover: float = 0.0
    """At most so long it is waited until all is as before; 0: as each fault has it."""
    path: str = ""
    post: str = ""
    rate: float = 100.0
    remote: bool = False
    every: bool = False
    """Whether each fault happens to each instance; else to one of each service in turn."""
    restarts: bool = False
    """The user says that whatever is killed is started again."""
    mine: str = ""
    """The name of the realm, typed where it sounds like production."""
    token: str = ""
    caller: str = "drill"


@dataclass(frozen=True, slots=True)
class Step:
    """One fault on one target."""

    fault: str
    target: Target
    seconds: float
    rule: Rule
    alone: bool = False
    """Whether the target is the only instance of its service that takes calls."""

    @property
    def name(self) -> str:
        return f"{self.fault} {self.target.name}"

    @property
    def is_instant(self) -> bool:
        """Whether it is over as soon as it has happened: nothing is undone, somebody starts it again."""
        return self.fault in ("kill", "crash")

    @property
    def expects(self) -> str:
        """What is to become of the calls, in one sentence."""
        return self.rule.alone if self.alone and self.rule.alone else self.rule.expects


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """What is going to be done, in this order."""

    scene: Scene
    wish: Wish
    traffic: Traffic
    steps: tuple[Step, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def about_seconds(self) -> float:
        return sum(step.seconds + REST_SECONDS for step in self.steps)


def refuse(realm: str, mine: str) -> None:
    """Raise ConfigurationError for a realm that sounds like production, unless its name was typed."""
    if realm.lower() in PRODUCTION and mine != realm:
        raise ConfigurationError(
            f"The realm is {realm}: a drill freezes and kills what serves there. Drill a realm of your own that is deployed like "
            f"it, or `sidecar drill --own`. If you mean it: --realm-is-mine {realm}."
        )


def make_plan(scene: Scene, wish: Wish) -> DrillPlan:
    """The plan for this host. Raises ConfigurationError where it is refused, or where there is nothing to do."""
    refuse(scene.realm, wish.mine)
    _check(wish)
    services = _services(scene, wish)
    left_out = [*scene.left_out, *_not_called(scene, services, wish)]
    steps: list[Step] = []
    for target in sorted(scene.targets, key=lambda one: _ORDER.index(one.kind)):
        if target.kind in ("instance", "remote") and target.service not in services:
            continue
        for fault in FAULTS:
            why_not = _why_not(fault, target, scene, wish) if _is_wanted(fault, target, wish) else None
            if why_not:
                left_out.append((f"{fault} {target.name}", why_not))
            elif why_not is not None:
                steps.append(_step(fault, target, scene, wish))
    if not wish.every:
        steps = _one_of_each(steps)
    traffic = Traffic(
        paths={name: wish.path or scene.services[name].path for name in services},
        post=wish.post,
        rate=wish.rate,
        token=wish.token,
        caller=wish.caller,
    )
    return DrillPlan(scene, wish, traffic, _arranged(steps), tuple(left_out))


def _check(wish: Wish) -> None:
    if not 0 < wish.seconds <= MOST_SECONDS:
        raise ConfigurationError(f"--seconds is {wish.seconds:g}: write a number up to {MOST_SECONDS:g}.")
    if not 0 < wish.rate <= 2000:
        raise ConfigurationError(f"--rate is {wish.rate:g}: write a number of calls per second up to 2000.")
    for asked in (*wish.only, *wish.skip):
        fault = asked.partition(":")[0]
        if fault not in FAULTS:
            raise ConfigurationError(f"{fault!r} is no fault: known are {', '.join(FAULTS)}; also as FAULT:TARGET.")


def _services(scene: Scene, wish: Wish) -> tuple[str, ...]:
    for name in wish.services:
        if name not in scene.services:
            known = ", ".join(sorted(scene.services)[:8]) or "none"
            raise ConfigurationError(f"{name} is not called through this sidecar; those that are: {known}.")
    callable_ = [name for name, one in scene.services.items() if not one.refused and one.instances]
    chosen = [name for name in callable_ if not wish.services or name in wish.services]
    own = {target.service for target in scene.targets if target.kind == "instance"}
    found = tuple(sorted(chosen, key=lambda name: (name not in own, name))[:MOST_SERVICES])
    if not found:
        raise ConfigurationError(
            "No service is called through this sidecar: there is nothing to lose, and nothing to drill."
        )
    return found


def _not_called(scene: Scene, services: Collection[str], wish: Wish) -> Iterator[tuple[str, str]]:
    for name, one in sorted(scene.services.items()):
        if name not in services and (not wish.services or name in wish.services):
            why = one.refused or ("no instance of it takes calls" if not one.instances else "")
            yield (f"calls to {name}", why or f"there are more than {MOST_SERVICES} services: name it with --service")


def _is_wanted(fault: str, target: Target, wish: Wish) -> bool:
    def fits(asked: str) -> bool:
        which, _, whom = asked.partition(":")
        return which == fault and whom in ("", target.kind, target.service, target.address, target.name)

    return (not wish.only or any(map(fits, wish.only))) and not any(map(fits, wish.skip))


def _why_not(fault: str, target: Target, scene: Scene, wish: Wish) -> str | None:
    """Why this fault does not happen to this target; empty: it does; None: it makes no sense, and is not worth a word."""
    if rule_of(fault, target.kind) is None:
        return None
    if target.kind == "remote":
        return (
            ""
            if wish.remote
            else "it is on another host: drill it there, or with --remote what can be done through Atlas"
        )
    if fault == "wipe":
        return "" if scene.own else "it is for realms that the drill has built: `sidecar drill --own --only wipe`"
    if fault == "partition":
        return _why_not_cut(target, scene)
    if target.kind == "atlas" and not target.is_local:
        return "Atlas runs on another host: drill it there"
    if target.why_not:
        return target.why_not
    if fault == "flap":
        return "" if target.announced else "it has no announcement"
    if not target.pid:
        return "its process is not known here"
    if fault in ("kill", "crash") and not (fault == "crash" and target.kind == "instance"):
        if target.restarted_by or wish.restarts:
            return ""
        return "nothing is known that starts it again (systemd, `sidecar up`); if something does, say --restarts"
    if fault == "crash" and not target.has_children:
        return "it has no worker processes"
    if fault == "disk-full" and not target.takes_full_disk:
        return "it would be ended by SIGXFSZ, where a full disk would only refuse a write"
    return ""


def _why_not_cut(target: Target, scene: Scene) -> str:
    if scene.own:
        return ""
    if not target.hosts:
        return "Atlas is on this host, and a wire inside of a host cannot be cut: `freeze` is as silent"
    return "" if scene.root else "it needs root (a blackhole route); `sidecar drill --own` shows it without"


def _seconds(rule: Rule, target: Target, scene: Scene, wish: Wish) -> float:
    """As long as was asked for; shorter where calls would then be given up for another reason than the fault."""
    if not rule.within_timeout:
        return wish.seconds
    timeouts = [one.timeout_ms for name, one in scene.services.items() if target.service in ("", name)]
    return min(wish.seconds, max(1.0, min(timeouts, default=10_000) / 1000 * 0.7))


def _step(fault: str, target: Target, scene: Scene, wish: Wish) -> Step:
    rule = rule_of(fault, target.kind)
    assert rule is not None
    if wish.recover:
        rule = replace(rule, recovers_seconds=wish.recover)
    alone = bool(target.service) and scene.services[target.service].instances < 2
    return Step(fault, target, _seconds(rule, target, scene, wish), rule, alone)


def _one_of_each(steps: list[Step]) -> list[Step]:
    """Each fault on one instance of each service, on another one each time: a rule of the sidecar keeps out longer whoever is
    lost again and again."""
    found: list[Step] = []
    choices: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        if step.target.kind in ("instance", "remote"):
            choices.setdefault((step.target.kind, step.target.service, step.fault), []).append(step)
        else:
            found.append(step)
    turns: dict[tuple[str, str], int] = {}
    for (kind, service, _), choice in choices.items():
        turn = turns.get((kind, service), 0)
        turns[kind, service] = turn + 1
        found.append(choice[turn % len(choice)])
    return found


def _arranged(steps: list[Step]) -> tuple[Step, ...]:
    """What happens to the host first; then fault by fault what happens to its instances, those that end them last but one."""
    kinds = [*_ORDER]
    return tuple(
        sorted(
            steps,
            key=lambda step: (
                min(kinds.index(step.target.kind), kinds.index("instance")),
                [*FAULTS].index(step.fault) if step.target.service else 0,
            ),
        )
    )
