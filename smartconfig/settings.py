"""The settings of one service: loaded whole, followed while they change, one version for one request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Final

from smartconfig import layers, watcher
from smartconfig.explain import Explanation, explanation
from smartconfig.lastgood import LastGood
from smartconfig.layers import Inputs, Outcome
from smartconfig.shown import told
from smartconfig.snapshot import Snapshot, differs
from smartconfig.sources import Overrides, Source
from smartrealm import ConfigurationError, Realm, ServiceName, on_fork

STALE_SECONDS = 60.0
"""How long a watched source may be silent before what it said counts as stale."""

DEFAULTS_VERSION = "defaults"

_log = logging.getLogger("smartconfig")

Callback = Callable[[Snapshot, Snapshot], object]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How things stand with the source. Holds no values."""

    state: str
    """`none`: there is no source. `fresh`: it answered, and its last answer is in force. `refused`: its last answer had
    mistakes; the one before is in force. `stale`: it does not answer; its last good answer is in force. `missing`: it
    does not answer and never did on this host; the defaults are in force."""
    version: str
    age_seconds: float | None
    """Seconds since the source was last heard; since the copy on disk was confirmed when it never was."""
    mistakes: tuple[str, ...] = ()
    """Why the last answer was refused, or why there is none."""
    pending: tuple[str, ...] = ()
    """The names of settings whose new value waits for a restart."""


@dataclass(slots=True)
class _Subscription:
    keys: tuple[str, ...]
    callback: Callback
    seen: Snapshot
    telling: Snapshot | None = None


@dataclass(slots=True)
class Contact:
    """What is known of the source: guarded by the lock of the settings."""

    overrides: Overrides | None = None
    seen_version: str = ""
    heard_at: float | None = None
    failure: str = ""
    refused: tuple[str, ...] = ()
    logged: set[str] = field(default_factory=set)


class Settings:
    """The settings of one service in one process; safe to use from any thread, and after a fork.

    Made by `load`. Nothing runs until `start`.
    """

    def __init__(
        self,
        inputs: Inputs,
        outcome: Outcome,
        *,
        realm: Realm,
        service: ServiceName,
        source: Source | None,
        last_good: LastGood | None,
        explicit: Mapping[str, Any],
        contact: Contact,
        clock: Callable[[], float],
    ) -> None:
        self.realm: Final = realm
        self.service: Final = service
        self._inputs = inputs
        self._source = source
        self._last_good = last_good
        self._explicit = dict(explicit)
        self._contact = contact
        self._clock = clock
        self._subscriptions: list[_Subscription] = []
        self._pinned: ContextVar[Snapshot | None] = ContextVar("smartconfig_snapshot", default=None)
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._registered = False
        self._secrets: tuple[str, ...] = outcome.secrets()
        self._in_force = outcome, Snapshot({}, self._version())
        self._snapshot = Snapshot(outcome.values(), self._version())

    # -- reading

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot. Two reads may give two versions; a request reads `pinned()`."""
        return self._snapshot

    def pinned(self) -> Snapshot:
        """The snapshot that this execution context has pinned, else the newest."""
        pinned = self._pinned.get()
        return self._snapshot if pinned is None else pinned

    def pin(self) -> Token[Snapshot | None]:
        """Hold on to the newest snapshot in this execution context; gives the token for `unpin`."""
        return self._pinned.set(self._snapshot)

    def unpin(self, token: Token[Snapshot | None]) -> None:
        """Undo `pin`, with its token, in the same context."""
        self._pinned.reset(token)

    @property
    def pending(self) -> Snapshot:
        """The new values that wait for a restart, by name. Its repr shows none of them."""
        return self._in_force[1]

    @property
    def status(self) -> SourceStatus:
        """How things stand with the source; costs no I/O."""
        # Without the lock: a callback may hold it for long, and health must not wait for that.
        contact = self._contact
        age = None if contact.heard_at is None else max(0.0, self._clock() - contact.heard_at)
        mistakes = (*contact.refused, *([contact.failure] if contact.failure else ()))
        return SourceStatus(self._state(age), self._snapshot.version, age, mistakes, tuple(self.pending))

    def _state(self, age: float | None) -> str:
        contact = self._contact
        if self._source is None:
            return "none"
        if contact.failure or (self._thread is not None and age is not None and age > STALE_SECONDS):
            return "missing" if contact.overrides is None else "stale"
        return "refused" if contact.refused else "fresh"

    def secrets(self) -> tuple[str, ...]:
        """Every secret text in the values in force, pending, or just replaced, longest first: for `Redactor`."""
        return self._secrets

    def explain(self, key: str | None = None, *, fingerprint_key: bytes | None = None) -> list[Explanation]:
        """Where each value comes from and what it overrode; secrets masked. Raises ConfigurationError for an unknown
        name."""
        outcome, pending = self._in_force
        if key is not None and key not in outcome.settings:
            raise ConfigurationError(self._unknown(key))
        secret_key = fingerprint_key or self._fingerprint_key()
        return [
            explanation(outcome.settings[name], pending.version, pending, self._inputs.declarations, secret_key)
            for name in ([key] if key is not None else sorted(outcome.settings))
        ]

    def _fingerprint_key(self) -> bytes:
        own = self._inputs.environ.get("FINGERPRINT_KEY") or self._snapshot.get("SECRET_KEY")
        return str(own or f"{self.realm}/{self.service}").encode()

    def _unknown(self, key: str) -> str:
        meant = layers.near(key, self._snapshot, 0.6)
        hint = f"; did you mean {meant}?" if meant else "."
        return f"{key}: {self._inputs.declarations.name} declares no such setting{hint}"

    # -- changing

    def on_change(self, keys: str | Iterable[str], callback: Callback) -> Callable[[], None]:
        """Call `callback(old, new)` once in this process for each change of one of these settings.

        It runs after the swap, in the thread that brought the change, one at a time; one that raises is logged. Gives a
        function that ends the subscription. Raises ConfigurationError for a name that is not declared.
        """
        wanted = (keys,) if isinstance(keys, str) else tuple(keys)
        with self._lock:
            for key in wanted:
                if key not in self._snapshot:
                    raise ConfigurationError(self._unknown(key))
            subscription = _Subscription(wanted, callback, self._snapshot)
            self._subscriptions = [*self._subscriptions, subscription]

        def cancel() -> None:
            with self._lock:
                self._subscriptions = [other for other in self._subscriptions if other is not subscription]

        return cancel

    def override(self, values: Mapping[str, Any]) -> None:
        """Put explicit overrides on top, as `load(overrides=...)` does, all or none; for set-up code and tests.

        They hold at once, also for settings that need a restart. Raises ConfigurationError.
        """
        with self._lock:
            explicit = {**self._explicit, **values}
            outcome = self._settle(self._contact.overrides, explicit)
            if outcome.mistakes:
                raise ConfigurationError(mistakes=[mistake.text for mistake in outcome.mistakes])
            self._explicit = explicit
            self._put_in_force(outcome, [key for key in self.pending if key not in values])
            self._announce()

    def refresh(self) -> SourceStatus:
        """Ask the source now, in this thread, and take over what it says if it is right."""
        if self._source is not None:
            try:
                answer: Overrides | Exception = watcher.checked(self._source.current())
            except Exception as error:
                answer = error
            self.heard(answer)
        return self.status

    def start(self) -> None:
        """Follow the source in a daemon thread; again in every child that is forked from here on. Harmless twice."""
        with self._lock:
            if self._source is None or (self._thread is not None and self._thread.is_alive()):
                return
            if not self._registered:
                on_fork(self, _begin_anew)
                self._registered = True
            self._thread, self._stop = watcher.follow(self, self._source)

    def close(self) -> None:
        """End the thread. The settings stay readable, and may be started again."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        # A source that is asked at this moment may take its time; its answer is dropped.
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.5)

    # -- what the watcher says

    @property
    def seen_version(self) -> str:
        """The version that the source last answered with, refused or not."""
        return self._contact.seen_version

    def catch_up(self) -> None:
        """Tell the subscribers what they have not been told yet (a fork may fall between a swap and its callbacks)."""
        with self._lock:
            self._announce()

    def heard(self, answer: Overrides | Exception | None) -> None:
        """Take in what the source said: new overrides, nothing new, or that it failed."""
        with self._lock:
            if isinstance(answer, Exception):
                self._failed(answer)
                return
            self._contact.heard_at = self._clock()
            if self._contact.failure:
                self._contact.failure = ""
                self._contact.logged.clear()
                _log.info("the source of the configuration answers again: %s", self._source_name)
            if answer is not None and (answer.version != self._contact.seen_version or self._contact.overrides is None):
                self._take_over(answer)
                # Last, so that a child that is forked in the middle asks again.
                self._contact.seen_version = answer.version

    @property
    def _source_name(self) -> str:
        return "" if self._source is None else self._source.name

    def _failed(self, error: Exception) -> None:
        self._contact.failure = failure_text(error, self._source_name, self._secrets)
        self._log_once(logging.WARNING, "the source of the configuration fails", self._contact.failure)

    def _take_over(self, overrides: Overrides) -> None:
        outcome = self._settle(overrides, self._explicit)
        mistakes, held = outcome.mistakes, set[str]()
        if not mistakes and (held := self._held_back(outcome)):
            mistakes = layers.broken_rules(self._inputs, self._with_held(outcome, held))
        if mistakes:
            self._contact.refused = tuple(mistake.text for mistake in mistakes)
            told_version = f"version {overrides.version} refused, {self._snapshot.version} stays in force"
            self._log_once(logging.ERROR, told_version, "; ".join(self._contact.refused))
            return
        self._contact.refused = ()
        self._contact.overrides = overrides
        changed = self._put_in_force(outcome, held)
        _log.info(
            "config version %s in force; changed: %s; waiting for a restart: %s",
            overrides.version,
            ", ".join(changed) or "-",
            ", ".join(self.pending) or "-",
        )
        if self._last_good is not None:
            self._last_good.save(overrides, self._clock())
        self._announce()

    def _settle(self, overrides: Overrides | None, explicit: Mapping[str, Any]) -> Outcome:
        return layers.settle(self._inputs, overrides, self._source_name, explicit)

    def _held_back(self, outcome: Outcome) -> set[str]:
        return {
            key
            for key, setting in outcome.settings.items()
            if setting.declaration.needs_restart and differs(self._snapshot[key], setting.value)
        }

    def _with_held(self, outcome: Outcome, held: Collection[str]) -> Outcome:
        """The outcome with these settings left as they are in force."""
        kept = {key: self._in_force[0].settings[key] for key in held}
        return Outcome({**outcome.settings, **kept}, outcome.mistakes)

    def _put_in_force(self, outcome: Outcome, held: Collection[str]) -> list[str]:
        """Swap the snapshot in one reference; gives the names of what changed."""
        old, before = self._snapshot, self._in_force[0]
        mixed = self._with_held(outcome, held)
        new = Snapshot(mixed.values(), self._version())
        pending = Snapshot({key: outcome.settings[key].value for key in held}, new.version)
        self._secrets = tuple(dict.fromkeys([*mixed.secrets(), *outcome.secrets(), *before.secrets()]))
        self._in_force = mixed, pending
        self._snapshot = new
        return [key for key in new if key not in old or differs(old[key], new[key])]

    def _version(self) -> str:
        return DEFAULTS_VERSION if self._contact.overrides is None else self._contact.overrides.version

    def _announce(self) -> None:
        for subscription in self._subscriptions:
            told = subscription.telling  # this callback is being called, and has changed something itself
            old, new = told or subscription.seen, self._snapshot
            if old is new:
                continue
            subscription.telling = new
            try:
                if any(differs(old.get(key), new.get(key)) for key in subscription.keys):
                    subscription.callback(old, new)
            except Exception:
                _log.exception("a callback for a change of %s failed", ", ".join(subscription.keys))
            finally:
                if told is None:
                    # Only now, so that a child that is forked in the middle calls it again.
                    subscription.seen, subscription.telling = subscription.telling, None

    def _log_once(self, level: int, event: str, text: str) -> None:
        line = f"{event}: {text}"
        if line not in self._contact.logged:
            if len(self._contact.logged) > 100:
                self._contact.logged.clear()
            self._contact.logged.add(line)
            _log.log(level, "%s", line)

    def __repr__(self) -> str:
        return f"Settings({self._inputs.declarations.name!r}, service={self.service!r}, {self._snapshot!r})"


def _begin_anew(settings: Settings) -> None:
    """In a forked child: the thread and whoever held the lock stayed behind in the parent."""
    settings._lock = threading.RLock()
    for subscription in settings._subscriptions:
        subscription.telling = None
    if settings._thread is not None:
        settings._thread = None
        settings.start()


def failure_text(error: Exception, source: str, secrets: tuple[str, ...]) -> str:
    if isinstance(error, ConfigurationError) and error.mistakes:
        return told("; ".join(error.mistakes), secrets)
    text = told(str(error), secrets) or type(error).__name__
    return text if source in text else f"{source}: {text}"
