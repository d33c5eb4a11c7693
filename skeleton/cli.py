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

    def begin(self, number: int, of: int, title: str) -> None:
        self._in_step = True
        self._write(f"{number}/{of} {title:<28}")

    def break_off(self) -> None:
        """End the line of a step that does not come to its end."""
        if self._in_step:
            self.line()

    def end(self, title: str, seconds: float, note: str) -> None:
        self._in_step = False
        self.steps.append({"title": title, "seconds": round(seconds, 3), **({"note": note} if note else {})})
        self._write(f"{seconds:6.1f} s{f'  ({note})' if note else ''}\n")

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
@click.option("--port", default=8000, show_default=True, metavar="N", help="Where it listens, 1024 to 64535.")
@click.option("--into", default=".", show_default=True, metavar="DIR", help="The directory it is put into.")
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
    port: int,
    into: str,
    dry_run: bool,
    as_json: bool,
    offline: bool,
    no_verify: bool,
    installer: str,
) -> dict[str, object]:
    from skeleton import generate

    wanted = generate.plan(
        name,
        components=components,
        owner=owner,
        port=port,
        into=Path(into),
        installer=installer,
        offline=offline,
        verify=not no_verify,
    )
    printed = _Printed(sys.stderr if as_json else sys.stdout)
    described = wanted.to_dict()
    _print_plan(described, printed)
    if generate.is_port_taken(port):
        printed.line(f"Warning: something listens on port {port} of this machine already.")
    following = f"cd {_shortest(wanted.target)} && make run"
    document: dict[str, object] = {"plan": described, "steps": printed.steps}
    if dry_run:
        printed.line("Nothing was written (--dry-run).")
        return {**document, "result": {"dry_run": True}}
    try:
        generate.generate(wanted, printed)
    except BaseException:
        printed.break_off()
        raise
    printed.line(f"{name} is {'ready' if wanted.verify else 'there, unproven'}: {following}")
    result = {"path": str(wanted.target), "proven": wanted.verify, "next": following}
    return {**document, "result": result}


def _shortest(target: Path) -> str:
    """The way to the target from here, as a word that a shell takes as it is."""
    from_here = os.path.relpath(target)
    way = from_here if len(from_here) < len(str(target)) else str(target)
    return shlex.quote(f"./{way}" if way.startswith("-") else way)


def _print_plan(described: dict[str, object], printed: _Printed) -> None:
    components, files = described["components"], described["files"]
    assert isinstance(components, list)
    assert isinstance(files, list)
    printed.line(f"generate-service {described['name']}")
    for title, value in (
        ("target", described["target"]),
        ("owner", described["owner"]),
        ("port", described["port"]),
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
