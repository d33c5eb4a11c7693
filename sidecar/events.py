"""What HAProxy tells by itself: a server went up or down. It logs that to a unix socket, where one thread listens.

A message may be lost (the agent is away, the queue of the socket is full): comparing with what HAProxy knows finds it later.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smartrealm.errors import ConfigurationError

Cause = Literal["answers", "check", "command"]
"""answers: HAProxy saw too many bad ones. check: its own check found out. command: it was told to."""

_LONGEST_MESSAGE = 8_192
_LOOK_SECONDS = 1.0
_MESSAGE = re.compile(
    r"(?:^|- )(?:Backup )?Server (?P<backend>[^\s/]+)/(?P<server>\S+) (?P<what>"
    r"is going DOWN for maintenance|was DOWN and now enters maintenance|enters drain state"
    r"|is (?:UP|DOWN)(?:/(?:READY|DRAIN|MAINT))?)(?P<more>.*)$",
    re.DOTALL,
)
_REASON = re.compile(r", reason: (?P<reason>[^,.]+)(?:, code: (?P<code>\d+))?(?:, info: \"(?P<info>[^\"]*)\")?")
_log = logging.getLogger("sidecar")


@dataclass(frozen=True, slots=True)
class Event:
    """A server begins or ends to take new calls."""

    backend: str
    server: str
    up: bool
    cause: Cause
    reason: str = ""
    """HAProxy's words, as far as it gave a reason."""


def parse_event(message: str) -> Event | None:
    """The event in one log message of HAProxy; None when it tells of something else."""
    found = _MESSAGE.search(message.strip())
    if found is None:
        return None
    what, more = found["what"], found["more"]
    up = what.startswith("is UP") and not what.endswith(("/DRAIN", "/MAINT"))
    reason = _REASON.match(more)
    if reason is None:
        told = not what.startswith("is DOWN") or "leaving" in more
        return Event(found["backend"], found["server"], up, "command" if told else "check", "")
    # "Health analyze" is what HAProxy calls the observation of the calls that pass by.
    cause: Cause = "answers" if reason["reason"] == "Health analyze" else "check"
    words = [part for part in (reason["reason"], reason["code"], reason["info"]) if part]
    says = reason["info"] if cause == "answers" and reason["info"] else ": ".join(words)
    return Event(found["backend"], found["server"], up, cause, says)


class Events:
    """The socket that HAProxy logs to, and the thread that reads it.

    `tell` is called in that thread for each event; what it raises is logged and ends nothing.
    """

    def __init__(self, path: Path, tell: Callable[[Event], object], *, look_seconds: float = _LOOK_SECONDS) -> None:
        self.path = path
        self._look_seconds = look_seconds
        self._tell = tell
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Listen. What an agent before left at this path is replaced; raises ConfigurationError where nothing can be made."""
        self._stopped.clear()
        self._socket = self._bind()
        self._thread = threading.Thread(target=self._run, name="sidecar-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the socket."""
        self._stopped.set()
        if self._thread is not None:
            self._wake()
            self._thread.join(self._look_seconds + 1)
            self._thread = None

    def _run(self) -> None:
        while not self._stopped.is_set():
            listening = self._socket
            if listening is None:
                return
            try:
                data = listening.recv(_LONGEST_MESSAGE)
            except TimeoutError:
                self._look_after_path()
                continue
            except OSError:
                break
            event = parse_event(data.decode(errors="replace"))
            if event is None:
                continue
            try:
                self._tell(event)
            except Exception:  # whoever listens, the next event is to be heard too
                _log.exception("an event of HAProxy could not be handled", extra={"backend": event.backend})
        self._close()

    def _bind(self) -> socket.socket:
        # Under another name first: at no moment may others write to it, or HAProxy find nothing there.
        fresh = self.path.with_name(f"{self.path.name}.new")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            fresh.unlink(missing_ok=True)
            listening.bind(str(fresh))
            fresh.chmod(0o600)
            fresh.rename(self.path)
        except OSError as error:
            listening.close()
            raise ConfigurationError(
                f"HAProxy's events cannot be received at {self.path} ({error.strerror or error}): "
                "the directory must be there, ours, and its path short (SIDECAR_DIR)."
            ) from error
        with suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        listening.settimeout(self._look_seconds)
        return listening

    def _look_after_path(self) -> None:
        """Make the socket anew when somebody removed its file: nobody could send to it any more."""
        if self.path.exists():
            return
        with suppress(ConfigurationError):  # the directory is gone as well: look again in a while
            old, self._socket = self._socket, self._bind()
            if old is not None:
                old.close()

    def _wake(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"-", str(self.path))

    def _close(self) -> None:
        listening, self._socket = self._socket, None
        if listening is not None:
            listening.close()
            with suppress(OSError):
                os.unlink(self.path)
