"""Following a source: one daemon thread that holds its settings weakly, and one bounded first question."""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from smartconfig.sources import Override, Overrides, Source
from smartrealm.errors import Unavailable

if TYPE_CHECKING:
    from smartconfig.settings import Settings

WAIT_SECONDS = 25.0
"""How long one question to a source that can wait may take."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LEAST_PAUSE = 0.05


_log = logging.getLogger("smartconfig")


def ask(source: Source, seconds: float) -> Overrides:
    """`source.current()`, given up after `seconds`: the thread that still waits is left behind (a daemon).

    Raises Unavailable when the time is up, else what the source raised.
    """
    answers: list[Overrides] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(checked(source.current()))
        except Exception as error:
            errors.append(error)
        except BaseException as error:  # a source that gives up with sys.exit must not end the service
            errors.append(Unavailable(f"{source.name} gave up with {type(error).__name__}."))

    thread = threading.Thread(target=work, name="smartconfig-first-answer", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    if errors:
        raise errors[0]
    raise Unavailable(f"{source.name} did not answer within {seconds:g} s.")


def checked(answer: Overrides | None) -> Overrides:
    """The answer, if it is one: a source is somebody else's code."""
    if (
        isinstance(answer, Overrides)
        and isinstance(answer.version, str)
        and all(isinstance(entry, Override) and isinstance(entry.key, str) for entry in answer.entries)
    ):
        return answer
    raise Unavailable(f"the source answered with {type(answer).__name__} where Overrides of Override were expected.")


def backoff(failures: int, spread: Callable[[], float]) -> float:
    """Seconds until the next question after so many failures: doubling, up to 30 s, between half and all of it."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + spread() / 2)


def follow(settings: Settings, source: Source) -> tuple[threading.Thread, threading.Event]:
    """Start the thread. It ends when the event is set, or within one question after the settings are gone."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(weakref.ref(settings), source, stop), name="smartconfig-watcher", daemon=True
    )
    thread.start()
    return thread, stop


def _watch(reference: weakref.ref[Settings], source: Source, stop: threading.Event) -> None:
    # A source on this host is polled at its own pace, failing or not; only a remote one needs to be spared.
    poll: float | None = getattr(source, "poll_seconds", None)
    paces_itself: bool = getattr(source, "paces_itself", False)
    failures = 0
    settings = reference()
    if settings is not None:
        settings.catch_up()
    while settings is not None:
        seen = settings.seen_version
        del settings  # nothing may keep the settings alive while this thread waits
        begun = time.monotonic()
        answer: Overrides | Exception | None
        try:
            answer = source.wait(seen, WAIT_SECONDS if poll is None else 0.0)
            answer = None if answer is None else checked(answer)
        except Exception as error:
            answer = error
        except BaseException as error:
            answer = Unavailable(f"{source.name} gave up with {type(error).__name__}.")
        settings = reference()
        if stop.is_set() or settings is None:
            return
        failures = failures + 1 if isinstance(answer, Exception) else 0
        try:
            settings.heard(answer)
        except Exception:
            # A type or a rule that nobody foresaw must not end the thread: the next version may be fine.
            failures += 1
            _log.exception("taking over what %s says failed", source.name)
        del settings, answer
        at_once = time.monotonic() - begun < LEAST_PAUSE
        spare = failures > 0 and not paces_itself
        pause = poll or (backoff(failures, random.random) if spare else LEAST_PAUSE if at_once else 0.0)
        if stop.wait(pause):
            return
        settings = reference()
