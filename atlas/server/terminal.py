"""What every command of `atlas` shares: its options, the directory it talks to, what it prints, how it ends.

A command is a function of a Session and of its own arguments; `reads` or `writes` gives it the options that all have.
Errors end in one sentence on stderr and a documented exit code.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import click

import atlas
from atlas import opening
from atlas.directory import Directory
from atlas.model import Author, Change, Kind, Report
from atlas.server.rendering import Glance
from atlas.terminal import ProgramGroup, Screen, login
from atlas.world import World
from smartrealm.errors import Conflict, Forbidden, NotFound, Unavailable
from smartrealm.names import Realm
from smartrealm.redaction import redact_text
from smartrealm.wording import plain

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "`atlas doctor` found something wrong, `atlas roll` stopped, or something happened that nobody foresaw",
    2: "wrong use: an unknown option, a value that cannot be, settings that cannot be used",
    3: "not found: the service, the instance, the setting, the token or the revision",
    4: "conflict: a guard or a newer change stands against it; nothing was written",
    5: "the map cannot be reached; of a write it is not known whether it was made",
    6: "refused: the token is missing, unknown, expired or may not do this",
    7: "the time of --timeout was over; what was awaited is named, what was written stays",
    129: "stopped because the terminal went away (SIGHUP)",
    130: "stopped by Ctrl-C",
    141: "whoever read the output went away, as in `atlas history | head -1`",
    143: "stopped by SIGTERM",
}

_NUMBER = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Tools:
    """What the commands take from the world around them; tests hand in their own."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    open: Callable[..., Directory] = atlas.open


class Session(Screen):
    """One run of a command: the directory, opened when it is first asked for, and the way to print."""

    def __init__(self, tools: Tools, *, url: str | None, as_json: bool, why: str = "", dry_run: bool = False) -> None:
        super().__init__(tools.environ, as_json=as_json)
        self.clock = tools.clock
        self.timer = tools.timer
        self.sleep = tools.sleep
        self.url = url
        self.dry_run = dry_run
        self.why = why
        self._open = tools.open
        self._stack = ExitStack()
        self._directory: Directory | None = None

    # -- the map -------------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Directory:
        """The map; in a dry run a copy of it, which ends with the command."""
        if self._directory is None:
            real = self.open()
            self._directory = self._rehearsal(real) if self.dry_run else real
        return self._directory

    def open(self, url: str | None = None) -> Directory:
        return self._stack.enter_context(self._open(url or self.url, environ=self.environ))

    def to_fill(self) -> Directory:
        """The map that an import is to fill; in a dry run an empty one in its place, when the real one is empty."""
        if not self.dry_run:
            return self.directory
        from atlas.server.rehearsal import empty

        if self.open().world().position.revision > 0:
            raise Conflict("This map is not empty: import fills a new one only.")
        return self._stack.enter_context(empty(self._folder(), self._open, self.environ))

    def _folder(self) -> str:
        return self._stack.enter_context(tempfile.TemporaryDirectory(prefix="atlas-"))

    def _rehearsal(self, real: Directory) -> Directory:
        from atlas.server.rehearsal import copy_of

        return self._stack.enter_context(copy_of(real, self._folder(), self._open, self.environ))

    @functools.cached_property
    def world(self) -> World:
        """The map as it was when it was first asked for."""
        return self.directory.world()

    @property
    def _url(self) -> str:
        return (self.url or self.environ.get("ATLAS_URL") or "").strip()

    @property
    def _is_served(self) -> bool:
        return self._url.lower().startswith(("http:", "https:"))

    @functools.cached_property
    def realm(self) -> str:
        """The realm of the map: what a server says of itself; a store does not know, so REALM."""
        told = self.status.get("server", {}).get("realm") if self._is_served and not self.dry_run else None
        return str(told or Realm.from_environment(self.environ))

    @property
    def place(self) -> str:
        """Where this map is: its URL without what is secret in it, and the store behind a server."""
        from atlas.server import standing

        if not self._url:
            return f"sqlite:///{opening.default_path(self.environ)}"
        store = standing.where(self.status)
        return redact_text(self._url) + (f" ({store})" if self._is_served and store else "")

    @functools.cached_property
    def status(self) -> Mapping[str, Any]:
        """What the map said of itself when it was first asked."""
        return self.directory.status()

    @functools.cached_property
    def reports(self) -> Mapping[str, Report]:
        """What the sidecars said of themselves when they were first asked; nothing where nobody can tell."""
        try:
            return self.directory.reports()
        except (
            Unavailable,
            NotFound,
        ):  # A server that has the map without its store, or one from before there were any.
            return {}

    def author(self, why: str = "") -> Author:
        """Who runs this command, and why: ATLAS_AUTHOR, else the name of the login."""
        return Author(login(self.environ), self.why or why)

    def glance(self, *, changes: int = 1) -> Glance:
        """The world with what is known about it: overdue leases, the latest changes."""
        from atlas.server import standing

        status, now = self.status, self.clock()
        return Glance(
            self.world,
            realm=self.realm,
            now=now,
            where=self.place,
            overdue=standing.overdue_of(status, now),
            held=standing.is_held(status),
            store_problem=standing.store_problem(status),
            changes=self._changes(changes) if changes else (),
            reports=self.reports,
        )

    def _changes(self, limit: int) -> tuple[Change, ...]:
        """The latest changes; none where the token may not see them, or a server has the map without its store."""
        try:
            return tuple(self.history(limit=limit))
        except (Forbidden, Unavailable):
            return ()

    def history(
        self, *, kind: Kind | None = None, key: str | None = None, limit: int, before: int | None = None
    ) -> list[Change]:
        """The changes, the newest first; where the token is no operator's, those of services and rulings."""
        try:
            return self.directory.history(kind=kind, key=key, limit=limit, before=before)
        except Forbidden:
            if kind is not None:
                raise
        found: dict[int, Change] = {}
        kinds: tuple[Kind, ...] = ("service", "ruling")
        for one in kinds:
            for change in self.directory.history(kind=one, key=key, limit=limit, before=before):
                known = found.get(change.revision, change)
                edits = change.edits if known is change else (*known.edits, *change.edits)
                found[change.revision] = replace(change, edits=edits)
        return sorted(found.values(), key=lambda change: -change.revision)[:limit]

    def known(self, service: str) -> str:
        """The name, when the map knows it; else NotFound with the near ones."""
        if self.world.knows(service):
            return service
        raise unknown_service(self.world, service, self.realm)

    # -- printing ------------------------------------------------------------------------------------------------------

    def done(self, text: str, revision: int, **facts: Any) -> None:
        """What a writing command says at its end."""
        if self.as_json:
            self.give({**facts, "revision": revision, "dry_run": self.dry_run})
        elif self.dry_run:
            self.say(f"Would be done: {text} (--dry-run: nothing was written)")
        else:
            self.say(f"{text} (revision {revision})")

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unknown_service(world: World, service: str, realm: str) -> NotFound:
    """`identiy is not registered in realm local; did you mean identity?`"""
    near = world.near(service)
    told = f"{plain(service)} is not registered in realm {realm}"
    if near:
        return NotFound(f"{told}; did you mean {' or '.join(near)}?", near=near)
    known = sorted({*world.services, *world.instances})
    if not known:
        return NotFound(f"{told}, and nothing else is: atlas service add {plain(service)}")
    listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return NotFound(f"{told}; registered are: {listed}.")


# -- commands ----------------------------------------------------------------------------------------------------------


class Command(click.Command):
    """A command that takes a negative number for an argument: `atlas set identity OFFSET -5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and any(_NUMBER.fullmatch(word) for word in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


_Function = Callable[..., None]


def reads(function: _Function) -> Callable[..., None]:
    """A command that looks at the map: --atlas and --json."""
    return _with_session(function, [*_ALL])


def writes(function: _Function) -> Callable[..., None]:
    """A command that changes the map: also --why and --dry-run."""
    return _with_session(function, [*_ALL, *_WRITING])


_ALL = (
    click.option("--atlas", "atlas_url", metavar="URL", help="Which map; else ATLAS_URL, else the local realm's."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)
_WRITING = (
    click.option("--why", default="", metavar="TEXT", help="The reason, kept in the history."),
    click.option("--dry-run", is_flag=True, help="Say what would happen, on a copy of the map; write nothing."),
)


def _with_session(function: _Function, options: Sequence[Callable[[Any], Any]]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(atlas_url: str | None, as_json: bool, why: str = "", dry_run: bool = False, **arguments: Any) -> None:
        context = click.get_current_context()
        common = context.find_object(Tools) or Tools()
        url = atlas_url or context.find_root().params.get("atlas_url")
        with Session(common, url=url, as_json=as_json, why=why, dry_run=dry_run) as session:
            function(session, **arguments)

    for option in reversed(options):
        run = option(run)
    return run


class AtlasGroup(ProgramGroup):
    """The program `atlas`, and the groups inside it."""

    command_class = Command
