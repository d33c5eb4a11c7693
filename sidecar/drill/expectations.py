"""The faults by name, and what is expected of a correct system: for each fault and each kind of target one rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FAULTS: Mapping[str, str] = {
    "freeze": "its processes are stopped (SIGSTOP)",
    "slow": "its processes are stopped for 80 % of each quarter of a second (SIGSTOP, SIGCONT)",
    "partition": "what is sent between it and Atlas is lost",
    "disk-full": "each of its writes to a file fails (RLIMIT_FSIZE 0)",
    "wipe": "the map is replaced by an empty one of another epoch",
    "crash": "it, or one of its workers, ends as by a mistake in memory (SEGV)",
    "kill": "its processes are ended (SIGKILL)",
    "flap": "it says once a second that it drains, and that it does not",
}
"""In the order in which they are done."""

UNDONE: Mapping[str, str] = {
    "freeze": "SIGCONT",
    "slow": "SIGCONT",
    "partition": "the wire is joined, or the route removed",
    "disk-full": "the limit that was there is set again",
    "wipe": "the map that was there is put back",
    "crash": "started again by {who}",
    "kill": "started again by {who}",
    "flap": "it says that it does not drain",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is expected. A bound of None: as many as there are."""

    expects: str
    alone: str = ""
    """The same where the target is the only instance of its service; empty: it makes no difference."""
    advice: str = ""
    """What to do when calls were lost."""
    lost_get: int | None = 0
    lost_post: int | None = 0
    in_flight: bool = False
    """Also POST that were under way there may be lost: one for each that posts."""
    gap_seconds: float = 2.0
    """For so long a service may be without any answer, beside the fault itself where that holds everybody up."""
    holds_up: bool = False
    """Whether the fault holds up every call as long as it lasts."""
    within_timeout: bool = False
    """Whether it has to be shorter than the timeout of the service: calls wait for its end."""
    keeps: bool = False
    """Whether no instance may be taken out meanwhile, calls lost or not."""
    recovers_seconds: float = 20.0
    """Within which everything is as before, once it is undone."""


_GO_ON = "Calls go on as before: HAProxy needs nobody to pass them."
_HELD = "The sidecars go by the map that they have: no call is lost, and nothing is taken out of it."
_AGENT = "HAProxy should not depend on its agent: `sidecar status` and the log of the agent say what happened."
_ATLAS = (
    "No sidecar needs Atlas for a call: look at `sidecar status` for what was taken out of the map, and whether services call "
    "Atlas themselves."
)
_ALONE_ADVICE = "Run a second instance, on another host."
_HAPROXY = (
    "HAProxy has to be back within five seconds: run it under systemd with Restart=always and without a long RestartSec "
    "(`sidecar units`), or under `sidecar up`."
)
_KILLED = (
    "GETs should have been repeated elsewhere: is the service marked as not repeatable, did the others keep up, does it begin to "
    "answer before it can?"
)

RULES: Mapping[tuple[str, str], Rule] = {
    ("freeze", "agent"): Rule(_GO_ON, advice=_AGENT),
    ("slow", "agent"): Rule(_GO_ON, advice=_AGENT),
    ("kill", "agent"): Rule(_GO_ON, advice=_AGENT),
    ("crash", "agent"): Rule(_GO_ON, advice=_AGENT),
    ("disk-full", "agent"): Rule(
        "Calls and changes go on; what cannot be written is written later.",
        advice="The agent should outlive a full disk: its log says what it could not do.",
    ),
    ("partition", "agent"): Rule(_HELD, keeps=True, advice=_ATLAS, recovers_seconds=30.0),
    ("freeze", "haproxy"): Rule(
        "Calls of this host wait, and are answered when it goes on.",
        advice="Calls that wait should be answered in the end: are timeouts shorter than the freeze?",
        holds_up=True,
        within_timeout=True,
    ),
    ("slow", "haproxy"): Rule("Calls of this host take longer, and are answered.", advice="Look at `sidecar status`."),
    ("kill", "haproxy"): Rule(
        "Calls of this host fail until it is back, within a few seconds; smartclient calls the instances directly meanwhile.",
        advice=_HAPROXY,
        lost_get=None,
        lost_post=None,
        gap_seconds=5.0,
        recovers_seconds=10.0,
    ),
    ("crash", "haproxy"): Rule(
        "A crashed worker takes its master along; calls of this host fail until it is back, within a few seconds.",
        advice=_HAPROXY,
        lost_get=None,
        lost_post=None,
        gap_seconds=5.0,
        recovers_seconds=10.0,
    ),
    ("freeze", "atlas"): Rule(_HELD, keeps=True, advice=_ATLAS),
    ("slow", "atlas"): Rule("Changes arrive later; no call notices.", advice=_ATLAS),
    ("kill", "atlas"): Rule(_HELD, keeps=True, advice=_ATLAS, recovers_seconds=30.0),
    ("disk-full", "atlas"): Rule(
        "It refuses changes and goes on telling the map: no call is lost, and leases that end meanwhile take nobody out.",
        keeps=True,
        advice=_ATLAS,
    ),
    ("wipe", "atlas"): Rule(
        "The guard holds every instance: no call is lost, and nothing is taken out.",
        keeps=True,
        advice="The guard should have held what vanished: `sidecar status` says what became of it.",
        recovers_seconds=30.0,
    ),
    ("freeze", "program"): Rule(_HELD, keeps=True, advice=_ATLAS),
    ("slow", "program"): Rule("Changes arrive later; no call notices.", advice=_ATLAS),
    ("kill", "program"): Rule(_HELD, keeps=True, advice=_ATLAS, recovers_seconds=30.0),
    ("disk-full", "program"): Rule(_HELD, keeps=True, advice=_ATLAS),
    ("freeze", "instance"): Rule(
        "Within three seconds its own sidecar takes it out; calls that it has wait, and are answered when it goes on.",
        alone="It is the only one: calls wait, then they are refused until it goes on.",
        advice="Others should have taken over: are there enough instances, and do calls wait long enough?",
        within_timeout=True,
    ),
    ("slow", "instance"): Rule(
        "Its answers take longer, and it keeps its turn: slow is not broken.",
        advice="Slow is not broken: the deadline of its callers is shorter than what it takes, or it lacks a second instance.",
    ),
    ("disk-full", "instance"): Rule(
        "What needs no file is answered; whether anything does is what this finds out.",
        advice="Something on the way of a request, or in the health of the service, writes to a file and does not expect an error.",
    ),
    ("crash", "instance"): Rule(
        "One worker ends: GETs that it had are repeated elsewhere, its master starts another.",
        advice=_KILLED,
        in_flight=True,
    ),
    ("kill", "instance"): Rule(
        "GETs are repeated elsewhere; of the rest those are lost that were under way there.",
        alone="It is the only one: calls fail until it is back.",
        advice=_KILLED,
        in_flight=True,
        recovers_seconds=40.0,
    ),
    ("flap", "instance"): Rule(
        "It leaves and comes back without a call lost, and HAProxy is not loaded anew.",
        advice="The instance goes on serving while it drains here: calls were lost on the way in or out. See `sidecar why`.",
    ),
    ("flap", "remote"): Rule(
        "It leaves and comes back without a call lost (`atlas drain`, `atlas enable`).",
        advice="Calls were lost on the way in or out: see `sidecar why`.",
    ),
}


def rule_of(fault: str, kind: str) -> Rule | None:
    """None: this fault makes no sense for such a target."""
    return RULES.get((fault, kind))


def advice_for(rule: Rule, *, alone: bool, lost: bool, recovered: bool, restarts: bool) -> str:
    """One sentence for a fault that was not survived."""
    if alone and lost:
        return _ALONE_ADVICE
    if not recovered and restarts:
        return (
            f"It was not as before within {rule.recovers_seconds:g} s: does anything start it again? Look at its log."
        )
    if not recovered:
        return f"It was not as before within {rule.recovers_seconds:g} s after the fault had ended: `sidecar status`."
    return rule.advice
