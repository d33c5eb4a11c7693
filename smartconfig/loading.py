"""From a module name to settings, with the first answer of the source or what stands in for it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from smartconfig import watcher
from smartconfig.declarations import Declaration, Declarations, declare, loaded, package_of
from smartconfig.lastgood import Kept, LastGood, Unusable
from smartconfig.layers import SOURCE, Inputs, Outcome, settle
from smartconfig.settings import Contact, Settings, failure_text
from smartconfig.sources import Overrides, Source
from smartrealm import ConfigurationError, Realm, ServiceName
from smartrealm.places import state_directory

START_SECONDS = 3.0
"""How long a start waits for the source before it goes on with the last good copy."""

_log = logging.getLogger("smartconfig")


def load(
    config: str | ModuleType,
    *,
    base: Sequence[str | ModuleType] = (),
    source: Source | None = None,
    source_for: Callable[[Beginning], Source | None] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    service: str | None = None,
    realm: str | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    known: Collection[str] = (),
    clock: Callable[[], float] = time.time,
    start_seconds: float = START_SECONDS,
    keep: bool = True,
) -> Settings:
    """Load the settings that the module `config` declares, on top of the `base` modules.

    `source_for` makes the source of what is known before any is asked, where none is given. Takes at most `start_seconds`
    for it; when it fails, or what it says has mistakes, the last good copy in
    `state_dir` stands in (`keep=False` neither reads nor writes one). `known` names settings of somebody else that may
    be overridden explicitly. Raises ConfigurationError with every mistake.
    """
    environment = os.environ if environ is None else environ
    declarations = declare(loaded([*base, config]))
    explicit = dict(overrides or {})
    name = _service_name(service, declarations, environment, explicit)
    where = Realm(realm) if realm is not None else Realm.from_environment(environment)
    if source is None and source_for is not None:
        source = source_for(Beginning(name, where, declarations, environment, explicit))
    inputs = Inputs(
        _with_service_name(declarations, name),
        name,
        {key: environment[key] for key in (*declarations.by_key, "FINGERPRINT_KEY") if key in environment},
        known,
    )
    last_good = None
    if source is not None and keep:
        directory = Path(state_dir) if state_dir is not None else state_directory(environment)
        last_good = LastGood(directory, realm=where, service=name, source=source.name)
    if source is None:
        contact, outcome = Contact(), _right(settle(inputs, None, "", explicit))
    else:
        contact, outcome = _Start(inputs, source, last_good, explicit, clock).run(start_seconds)
    return Settings(
        inputs,
        outcome,
        realm=where,
        service=name,
        source=source,
        last_good=last_good,
        explicit=explicit,
        contact=contact,
        clock=clock,
    )


@dataclass(frozen=True, slots=True, repr=False)
class Beginning:
    """What is known before a source is asked."""

    service: ServiceName
    realm: Realm
    declarations: Declarations
    environ: Mapping[str, str]
    explicit: Mapping[str, Any]

    def value(self, key: str) -> Any:
        """A declared setting as the explicit overrides, else the environment (as text), else the defaults have it."""
        if key in self.explicit:
            return self.explicit[key]
        if key in self.environ:
            return self.environ[key]
        declared = self.declarations.by_key.get(key)
        return declared.defaults[-1][1] if declared is not None and declared.defaults else None


@dataclass(slots=True)
class _Start:
    """The first answer of the source, or what stands in for it."""

    inputs: Inputs
    source: Source
    last_good: LastGood | None
    explicit: Mapping[str, Any]
    clock: Callable[[], float]

    def run(self, seconds: float) -> tuple[Contact, Outcome]:
        contact = Contact()
        try:
            answer = watcher.ask(self.source, seconds)
        except Exception as error:
            contact.failure = failure_text(error, self.source.name, ())
            return contact, self._remembered(contact) or self._bare(contact)
        contact.seen_version, contact.heard_at = answer.version, self.clock()
        outcome = self._settle(answer)
        if not outcome.mistakes:
            contact.overrides = answer
            if self.last_good is not None:
                self.last_good.save(answer, self.clock(), refresh=True)
            return contact, outcome
        contact.refused = tuple(mistake.text for mistake in outcome.mistakes)
        # Only what the source says may be forgiven, and only when the host remembers something better.
        forgivable = all(mistake.layer == SOURCE for mistake in outcome.mistakes)
        remembered = self._remembered(contact) if forgivable else None
        return contact, remembered or _right(outcome)

    def _remembered(self, contact: Contact) -> Outcome | None:
        kept = self._kept()
        if kept is None:
            return None
        outcome = self._settle(kept.overrides)
        if outcome.mistakes:
            texts = "; ".join(mistake.text for mistake in outcome.mistakes)
            _log.warning("the last good configuration does not fit any more: %s", texts)
            return None
        contact.overrides = kept.overrides
        if contact.heard_at is None:
            contact.heard_at = kept.saved_at
        reason = contact.failure or "; ".join(contact.refused)
        _log.warning("starting on the last good configuration, version %s: %s", kept.overrides.version, reason)
        return outcome

    def _bare(self, contact: Contact) -> Outcome:
        outcome = _right(self._settle(None), contact.failure)
        _log.warning("starting without overrides, none are kept on this host: %s", contact.failure)
        return outcome

    def _kept(self) -> Kept | None:
        try:
            return None if self.last_good is None else self.last_good.load()
        except Unusable as error:
            _log.warning("the last good configuration is not used: %s", error)
            return None

    def _settle(self, overrides: Overrides | None) -> Outcome:
        return settle(self.inputs, overrides, self.source.name, self.explicit)


def _right(outcome: Outcome, also: str = "") -> Outcome:
    """The outcome, if nothing is wrong with it. Raises ConfigurationError with everything that is."""
    if not outcome.mistakes:
        return outcome
    mistakes: list[str] = [mistake.text for mistake in outcome.mistakes]
    raise ConfigurationError(mistakes=[*mistakes, *([also] if also else [])])


def _service_name(
    given: str | None, declarations: Declarations, environ: Mapping[str, str], explicit: Mapping[str, Any]
) -> ServiceName:
    """The argument, else SERVICE_NAME from any layer that is known before the source is asked, else the package."""
    declared = declarations.by_key.get("SERVICE_NAME")
    candidates: list[Any] = [given, explicit.get("SERVICE_NAME")]
    if declared is not None:
        candidates.append(environ.get("SERVICE_NAME"))
        candidates += [value for _, value in reversed(declared.defaults)]
    for candidate in candidates:
        if isinstance(candidate, str) and candidate:
            return ServiceName(candidate)
    return ServiceName.from_package(package_of(declarations.modules[-1]))


def _with_service_name(declarations: Declarations, service: ServiceName) -> Declarations:
    """SERVICE_NAME is never empty for a reader: its lowest default is the name that was found."""
    declared = declarations.by_key.get("SERVICE_NAME")
    if declared is None or (declared.defaults and declared.defaults[-1][1]):
        return declarations
    filled: Declaration = replace(declared, defaults=(*declared.defaults, ("name of the service", str(service))))
    return replace(declarations, by_key={**declarations.by_key, "SERVICE_NAME": filled})
