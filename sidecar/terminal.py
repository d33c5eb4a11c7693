"""What every command of `sidecar` shares: its options, whom it asks, what it prints, how it ends.

A command is a function of a Session and of its own arguments. Errors end in one sentence on stderr and a documented exit code.
"""

from __future__ import annotations

import difflib
import functools
import getpass
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from sidecar.control import Control
from sidecar.settings import Settings
from smartrealm.errors import (
    BadRequest,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SmartError,
    Unauthorized,
    Unavailable,
)
from smartrealm.names import Realm
from smartrealm.places import sidecar_directory
from smartrealm.wording import plain

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "`check` found something wrong, `status --ready` found it not ready, or something happened that nobody foresaw",
    2: "wrong use: an unknown option, a value that cannot be, settings that cannot be used",
    3: "not found: the service, the announcement, what the guard holds",
    4: "conflict: another sidecar runs there",
    5: "the sidecar, or Atlas, cannot be reached",
    6: "refused: this user or this token may not do that",
    130: "stopped by Ctrl-C",
    141: "whoever read the output went away, as in `sidecar status | head -1`",
    143: "stopped by SIGTERM",
}

_BY_ERROR: Sequence[tuple[type[SmartError], int]] = (
    (Unauthorized, 6),
    (Forbidden, 6),
    (NotFound, 3),
    (Conflict, 4),
    (Unavailable, 5),
    (DeadlineExceeded, 5),
    (BadRequest, 2),
    (ConfigurationError, 2),
)


def exit_code(error: SmartError) -> int:
    """The documented code with which a command ends on this error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), 1)


@dataclass(frozen=True)
class Tools:
    """What the commands take from the world around them; tests hand in their own."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    control: Callable[[Path], Control] = Control


class Session:
    """One run of a command: where the sidecar is, how it is asked, and the way to print."""

    def __init__(self, tools: Tools, *, directory: str | None, realm: str | None, as_json: bool, dry_run: bool) -> None:
        self.tools = tools
        self.environ = tools.environ
        self.now = tools.clock
        self.as_json = as_json
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
        name = self.environ.get("ATLAS_AUTHOR", "").strip()
        if name:
            return name
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # A user id without a name, as in some containers.
            return f"uid {os.getuid()}"

    # -- printing ------------------------------------------------------------------------------------------------------

    @property
    def _colour(self) -> bool | None:
        return False if self.environ.get("NO_COLOR") else None

    def print(self, text: str = "") -> None:
        """A line on stdout."""
        click.echo(text, color=self._colour)

    def note(self, text: str) -> None:
        """A line on stderr: progress, a hint."""
        click.echo(text, err=True, color=self._colour)

    def give(self, document: Any, *, indent: int | None = 2) -> None:
        """The answer to --json: one document on stdout."""
        click.echo(json.dumps(document, indent=indent, ensure_ascii=False, default=str))

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


class LazyGroup(click.Group):
    """A group that imports a command when it is run, whose errors are one sentence each, and whose exit codes are documented."""

    sections: Mapping[str, Mapping[str, Entry]] = {}
    """Set by the program: the title of each section, then its commands."""

    @functools.cached_property
    def _entries(self) -> Mapping[str, Entry]:
        """The commands that this version has."""
        found = {name: entry for section in self.sections.values() for name, entry in section.items()}
        return {name: entry for name, entry in found.items() if _is_there(entry.module)}

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
            rows = [(name, entry.help) for name, entry in section.items() if name in self._entries]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._entries and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=2, cutoff=0.5)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"there is no command {name!r}{meant}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(arguments, {**extra, "standalone_mode": False}))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _nobody_reads(sys.stdout)
            ctx.exit(141)

    def _run(self, arguments: list[str], extra: dict[str, Any]) -> int:
        as_json = "--json" in arguments
        try:
            ended = super().main(arguments, **extra)
            sys.stdout.flush()
            return ended if isinstance(ended, int) else 0
        except SmartError as error:
            return _told(error.message, exit_code(error), as_json, error.code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "sidecar"
            text = " ".join(error.format_message().split()).rstrip(".")
            joint = " See" if text.endswith("?") else "; see"
            return _told(f"{text}{joint} {path} --help.", 2, as_json, "wrong-use")
        except click.ClickException as error:
            return _told(error.format_message(), 2, as_json, "wrong-use")
        except (click.Abort, KeyboardInterrupt):
            return 130
        except BrokenPipeError:
            _nobody_reads(sys.stdout)
            return 141
        except OSError as error:
            return _told(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1, as_json)
        except Exception as error:
            if os.environ.get("SIDECAR_TRACEBACK"):
                raise
            return _told(f"{type(error).__name__}, which nobody foresaw; SIDECAR_TRACEBACK=1 shows where.", 1, as_json)


def _is_there(module: str) -> bool:
    """Whether this version has the module, found out without importing it."""
    return Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py").exists()


def _told(message: str, code: int, as_json: bool, name: str = "internal") -> int:
    shown = "\n".join(plain(line) for line in message.splitlines())
    try:
        click.echo(f"sidecar: {shown}", err=True)
        if as_json:
            click.echo(json.dumps({"error": {"code": code, "name": name, "message": message}}, ensure_ascii=False))
    except BrokenPipeError:
        _nobody_reads(sys.stdout)
    return code


def _nobody_reads(stream: TextIO) -> None:
    """Whoever read our output went away: what is still buffered has no place to go, and Python must not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass
