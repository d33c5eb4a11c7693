"""What every command of `sidecar` shares: its options, whom it asks, what it prints, how it ends.

A command is a function of a Session and of its own arguments. Errors end in one sentence on stderr and a documented exit code.
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from atlas.terminal import ProgramGroup, Screen, login
from sidecar.control import Control
from sidecar.settings import Settings
from smartrealm.names import Realm
from smartrealm.places import sidecar_directory

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "`check` found something wrong, `status --ready` found it not ready, not everything held in a `drill`, or something happened that nobody foresaw",
    2: "wrong use: an unknown option, a value that cannot be, settings that cannot be used",
    3: "not found: the service, the announcement, what the guard holds",
    4: "conflict: another sidecar runs there, another drill is under way",
    5: "the sidecar, or Atlas, cannot be reached",
    6: "refused: this user or this token may not do that",
    130: "stopped by Ctrl-C",
    141: "whoever read the output went away, as in `sidecar status | head -1`",
    143: "stopped by SIGTERM",
}


@dataclass(frozen=True)
class Tools:
    """What the commands take from the world around them; tests hand in their own."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    control: Callable[[Path], Control] = Control


class Session(Screen):
    """One run of a command: where the sidecar is, how it is asked, and the way to print."""

    def __init__(self, tools: Tools, *, directory: str | None, realm: str | None, as_json: bool, dry_run: bool) -> None:
        super().__init__(tools.environ, as_json=as_json)
        self.tools = tools
        self.now = tools.clock
        self.dry_run = dry_run
        self._directory = directory
        self._realm = realm

    @functools.cached_property
    def realm(self) -> str:
        return str(Realm(self._realm)) if self._realm else str(Realm.from_environment(self.environ))

    @functools.cached_property
    def directory(self) -> Path:
        """Where the sidecar of this host and its services meet."""
        if self._directory:
            return Path(self._directory).expanduser().absolute()
        return sidecar_directory(self.environ, self.realm).absolute()

    @functools.cached_property
    def places(self) -> Settings:
        """The settings that say where the files are, without those that only a running sidecar needs: a mistake in one of
        these does not stand in the way of looking."""
        from smartrealm.places import state_directory

        return Settings(self.directory, state_directory(self.environ) / "sidecar" / self.realm, self.realm)

    def settings(self, *, needs_atlas: bool = True, **given: Any) -> Settings:
        """Everything that the environment says. Raises ConfigurationError with every mistake."""
        from sidecar.environment import settings_from

        return settings_from(
            self.environ, needs_atlas=needs_atlas, **{"directory": self._directory, "realm": self._realm, **given}
        )

    @functools.cached_property
    def control(self) -> Control:
        """The agent of this host."""
        return self.tools.control(self.places.control_socket)

    @functools.cached_property
    def author(self) -> str:
        """Who runs this command: ATLAS_AUTHOR, else the name of the login."""
        return login(self.environ)

    # -- printing ------------------------------------------------------------------------------------------------------

    def done(self, text: str, **facts: Any) -> None:
        """What a command that changes something says at its end."""
        if self.as_json:
            self.give({**facts, "dry_run": self.dry_run})
        elif self.dry_run:
            self.print(f"Would be done: {text} (--dry-run: nothing was done)")
        else:
            self.print(text)

    def exit(self, code: int) -> None:
        """End with this code."""
        click.get_current_context().exit(code)


# -- commands ----------------------------------------------------------------------------------------------------------

_Function = Callable[..., None]

_WHERE = (
    click.option("--dir", "directory", metavar="DIRECTORY", help="Which sidecar; else SIDECAR_DIR, else the realm's."),
    click.option("--realm", metavar="REALM", help="Which realm; else REALM, else local."),
)
_JSON = (click.option("--json", "as_json", is_flag=True, help="Print JSON."),)
_DRY = (click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing."),)


def looks(function: _Function) -> Callable[..., None]:
    """A command that looks: --dir, --realm and --json."""
    return _with_session(function, [*_WHERE, *_JSON])


def acts(function: _Function) -> Callable[..., None]:
    """A command that changes something: also --dry-run."""
    return _with_session(function, [*_WHERE, *_JSON, *_DRY])


def runs(function: _Function) -> Callable[..., None]:
    """A command that is the program: --dir and --realm."""
    return _with_session(function, _WHERE)


def _with_session(function: _Function, options: Sequence[Callable[[Any], Any]]) -> Callable[..., None]:
    @functools.wraps(function)
    def run(
        directory: str | None, realm: str | None, as_json: bool = False, dry_run: bool = False, **arguments: Any
    ) -> None:
        context = click.get_current_context()
        tools = context.find_object(Tools) or Tools()
        root = context.find_root().params
        where = {"directory": directory or root.get("directory"), "realm": realm or root.get("realm")}
        function(Session(tools, as_json=as_json, dry_run=dry_run, **where), **arguments)

    for option in reversed(options):
        run = option(run)
    return run


@dataclass(frozen=True)
class Entry:
    """A command in the table of the program: where it is, and what the help says of it without importing it."""

    module: str
    attribute: str
    help: str


class LazyGroup(ProgramGroup):
    """A program that imports a command when it is run."""

    sections: Mapping[str, Mapping[str, Entry]] = {}
    """Set by the program: the title of each section, then its commands."""

    @functools.cached_property
    def _entries(self) -> Mapping[str, Entry]:
        return {name: entry for section in self.sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])
