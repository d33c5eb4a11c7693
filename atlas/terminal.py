"""What the programs `atlas` and `sidecar` share on a terminal: printing, errors of one sentence, documented exit codes."""

from __future__ import annotations

import difflib
import getpass
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TextIO

import click

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
from smartrealm.wording import plain

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


def exit_codes_help(codes: Mapping[int, str]) -> str:
    """The end of a program's help: each code with its meaning."""
    return "\n\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in codes.items())


def login(environ: Mapping[str, str]) -> str:
    """Who runs this command: ATLAS_AUTHOR, else the name of the login."""
    name = environ.get("ATLAS_AUTHOR", "").strip()
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A user id without a name, as in some containers.
        return f"uid {os.getuid()}"


class Screen:
    """Where a command prints: words for people, one JSON document for programs."""

    def __init__(self, environ: Mapping[str, str], *, as_json: bool) -> None:
        self.environ = environ
        self.as_json = as_json

    @property
    def _colour(self) -> bool | None:
        return False if self.environ.get("NO_COLOR") else None

    def print(self, text: str = "") -> None:
        """A line on stdout, whoever reads it."""
        click.echo(text, color=self._colour)

    def say(self, text: str = "") -> None:
        """A line for people; with --json on stderr, since stdout is for the program."""
        click.echo(text, err=self.as_json, color=self._colour)

    def note(self, text: str) -> None:
        """A line on stderr: progress, a hint."""
        click.echo(text, err=True, color=self._colour)

    def give(self, document: Any, *, indent: int | None = 2) -> None:
        """The answer to --json: one document on stdout."""
        click.echo(json.dumps(document, indent=indent, ensure_ascii=False, default=str))


class ProgramGroup(click.Group):
    """A program whose errors are one sentence each, and whose exit codes are documented; also the groups inside it."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(arguments, {**extra, "standalone_mode": False}))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"there is no command {name!r}{meant}")
        return super().resolve_command(ctx, args)

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
            return self._told(error.message, exit_code(error), as_json, error.code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return 2
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else self.name
            text = " ".join(error.format_message().split()).rstrip(".")
            joint = " See" if text.endswith("?") else "; see"
            return self._told(f"{text}{joint} {path} --help.", 2, as_json, "wrong-use")
        except click.ClickException as error:
            return self._told(error.format_message(), 2, as_json, "wrong-use")
        except (click.Abort, KeyboardInterrupt):
            return 130
        except BrokenPipeError:
            _nobody_reads(sys.stdout)
            return 141
        except OSError as error:
            told = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            return self._told(told, 1, as_json)
        except Exception as error:
            variable = f"{self.name}_TRACEBACK".upper()
            if os.environ.get(variable):
                raise
            return self._told(f"{type(error).__name__}, which nobody foresaw; {variable}=1 shows where.", 1, as_json)

    def _told(self, message: str, code: int, as_json: bool, name: str = "internal") -> int:
        shown = "\n".join(plain(line) for line in message.splitlines())
        try:
            click.echo(f"{self.name}: {shown}", err=True)
            if as_json:
                told = {"error": {"code": code, "name": name, "message": message}}
                click.echo(json.dumps(told, ensure_ascii=False))
        except BrokenPipeError:
            _nobody_reads(sys.stdout)
        return code


def _nobody_reads(stream: TextIO) -> None:
    """Whoever read our output went away: what is still buffered has no place to go, and Python must not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass


CONTEXT: Mapping[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""For each program's `context_settings`."""


def version_option(program: str) -> Callable[[Any], Any]:
    """`--version`: of the distribution, or that it runs from a checkout."""

    def tell(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            from importlib import metadata

            try:
                click.echo(f"{program} {metadata.version('smartservice')}")
            except metadata.PackageNotFoundError:
                click.echo(f"{program} (from a checkout)")
            context.exit()

    return click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=tell, help="Show the version."
    )


def end_on(number: int) -> None:
    """On this signal end with 128 + its number, by way of an exception: temporary files are removed on the way out."""
    signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
