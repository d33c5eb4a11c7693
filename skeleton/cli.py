"""The command generate-service: parse, call `generate`, one sentence for every error, a documented exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TextIO

import click

from skeleton.errors import GenerateError, Interrupted, WrongUse

_HELP = """Make a new service: repository, locked environment, green tests, first commit.

\b
Examples:
  generate-service hello
  generate-service team-identity --with db,redis --owner accounts --port 8010
  generate-service hello --into ~/services --dry-run

Nothing is asked. The service is built beside its place and appears there whole, or not at all.

\b
Exit codes:
  0  done, and proven: the service's own tests, its lint and its health are green
  2  wrong use, or a name that cannot name a service
  3  the target exists
  4  a tool is missing
  5  the requirements could not be installed
  6  the new service's own tests, lint or health are red
"""


class _Printed:
    """Progress for people: one line a step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_step = False
        self.steps: list[dict[str, object]] = []
        self.warnings: list[str] = []
        self._unshown: list[str] = []

    def begin(self, number: int, of: int, title: str) -> None:
        self._in_step = True
        self._write(f"{number}/{of} {title:<28}")

    def break_off(self) -> None:
        """End the line of a step that does not come to its end."""
        if self._in_step:
            self._in_step = False
            self.line()
        self._show_warnings()

    def end(self, title: str, seconds: float, note: str) -> None:
        self._in_step = False
        self.steps.append({"title": title, "seconds": round(seconds, 3), **({"note": note} if note else {})})
        self._write(f"{seconds:6.1f} s{f'  ({note})' if note else ''}\n")
        self._show_warnings()

    def warn(self, text: str) -> None:
        """One line of warning, after the step that is being told."""
        self._unshown.append(text)
        self.warnings.append(text)
        if not self._in_step:
            self._show_warnings()

    def _show_warnings(self) -> None:
        while self._unshown:
            self._write(f"Warning: {self._unshown.pop(0)}\n")

    def line(self, text: str = "") -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # Nobody reads any more; the work goes on.
            self._out = open(os.devnull, "w")  # noqa: SIM115


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        try:
            click.echo(f"generate-service {metadata.version('smartservice')}")
        except metadata.PackageNotFoundError:
            click.echo("generate-service (from a checkout)")
        context.exit()


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("name")
@click.option("--with", "components", multiple=True, metavar="db,redis", help="What the service uses besides HTTP.")
@click.option("--owner", default="unowned", show_default=True, metavar="TEAM", help="The team that answers for it.")
@click.option(
    "--description", default="", metavar="TEXT", help="What it is for, in one line, for the map of the realm."
)
@click.option(
    "--port", type=int, metavar="N", help="Where it listens, 1024 to 64535; else a free one of the realm, or 8000."
)
@click.option("--into", default=".", show_default=True, metavar="DIR", help="The directory it is put into.")
@click.option("--no-atlas", is_flag=True, help="Neither ask the map of the realm nor record the service in it.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; the progress goes to stderr.")
@click.option("--offline", is_flag=True, help="Use only what is cached from an earlier run.")
@click.option("--no-verify", is_flag=True, help="Do not run the new service's tests, lint and health.")
@click.option(
    "--installer",
    type=click.Choice(["auto", "uv", "pip"]),
    default="auto",
    show_default=True,
    help="What makes the environment; auto takes uv where there is one.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def command(
    name: str,
    components: tuple[str, ...],
    owner: str,
    description: str,
    port: int | None,
    into: str,
    no_atlas: bool,
    dry_run: bool,
    as_json: bool,
    offline: bool,
    no_verify: bool,
    installer: str,
) -> dict[str, object]:
    from skeleton import atlas, generate

    wanted = generate.plan(
        name,
        components=components,
        owner=owner,
        description=description,
        port=port,
        into=Path(into),
        installer=installer,
        offline=offline,
        verify=not no_verify,
        atlas=not no_atlas and atlas.is_there_a_map(os.environ),
    )
    printed = _Printed(sys.stderr if as_json else sys.stdout)
    warnings: tuple[str, ...] = ()
    if dry_run:
        wanted, warnings = generate.rehearse(wanted)
    _print_plan(wanted.to_dict(), printed, "a free one of the realm" if wanted.takes_port and not dry_run else "")
    for warning in warnings:
        printed.warn(warning)
    if (dry_run or not wanted.takes_port) and generate.is_port_taken(wanted.port):
        printed.warn(f"something listens on port {wanted.port} of this machine already.")
    following = f"cd {_shortest(wanted.target)} && make run"
    document: dict[str, object] = {"steps": printed.steps, "warnings": printed.warnings}
    if dry_run:
        printed.line("Nothing was written (--dry-run).")
        return {"plan": wanted.to_dict(), **document, "result": {"dry_run": True}}
    try:
        wanted = generate.generate(wanted, printed)
    except BaseException:
        printed.break_off()
        raise
    printed.line(f"{name} is {'ready' if wanted.verify else 'there, unproven'}: {following}")
    result = {"path": str(wanted.target), "proven": wanted.verify, "next": following}
    return {"plan": wanted.to_dict(), **document, "result": result}


def _shortest(target: Path) -> str:
    """The way to the target from here, as a word that a shell takes as it is."""
    from_here = os.path.relpath(target)
    way = from_here if len(from_here) < len(str(target)) else str(target)
    return shlex.quote(f"./{way}" if way.startswith("-") else way)


def _print_plan(described: dict[str, object], printed: _Printed, port: str) -> None:
    components, files = described["components"], described["files"]
    assert isinstance(components, list)
    assert isinstance(files, list)
    printed.line(f"generate-service {described['name']}")
    for title, value in (
        ("target", described["target"]),
        ("owner", described["owner"]),
        ("port", port or described["port"]),
        ("components", ", ".join(components) or "none"),
        ("toolkit", described["toolkit"]),
        ("environment", described["installer"]),
        ("files", f"{len(files)}, and the locked requirements"),
    ):
        printed.line(f"  {title:<12} {value}")


def run(arguments: Sequence[str]) -> int:
    """Run the command and give its exit code."""
    as_json = "--json" in arguments
    try:
        document = command.main(list(arguments), prog_name="generate-service", standalone_mode=False)
    except GenerateError as error:
        return _told(error, as_json)
    except click.UsageError as error:
        return _told(_as_wrong_use(error), as_json)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (Interrupted, click.Abort, KeyboardInterrupt) as stopped:
        code = stopped.exit_code if isinstance(stopped, Interrupted) else 130
        return _told(_Stopped("Stopped by a signal; what was being built is removed.", code), as_json)
    if as_json and isinstance(document, dict):
        click.echo(json.dumps(document, indent=2))
    return 0


class _Stopped(GenerateError):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _as_wrong_use(error: click.UsageError) -> WrongUse:
    text = " ".join(error.format_message().split()).rstrip(".")
    return WrongUse(f"{text}; see generate-service --help.")


def _told(error: GenerateError, as_json: bool) -> int:
    """Say what went wrong, and give the exit code."""
    code = error.code if isinstance(error, _Stopped) else error.exit_code
    if error.output:
        click.echo(f"\n{error.output.rstrip()}\n", err=True)
    click.echo(f"generate-service: {error.message}", err=True)
    if as_json:
        told: dict[str, object] = {"code": code, "message": error.message}
        if error.suggestion:
            told["suggestion"] = error.suggestion
        click.echo(json.dumps({"error": told}, indent=2))
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> None:
    """The entry point of the program."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
