"""`smartclient consumer NAME`: write typed functions for calling a service. Thin: parse, fetch, render, write."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from smartclient import consumer
from smartrealm import ConfigurationError, ServiceName, SmartError, redact_text
from smartrealm.errors import Conflict, Unavailable, ValidationFailed

OUT_OF_DATE = 1
WRONG_USE = 2
NO_DESCRIPTION = 3
NOT_OURS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code: 0, or 1 (--check: not up to date), 2 wrong use, 3 no description, 4 not ours."""
    given = _parser().parse_args(arguments)
    try:
        service = ServiceName(given.service)
    except ConfigurationError as error:
        return _failed(WRONG_USE, error)
    output = given.output or Path(f"{service.replace('-', '_')}_client.py")
    where = given.url or f"service://{service}/openapi.json"
    try:
        text = consumer.render(fetch(where), service=service, source=redact_text(where))
        if given.dry_run:
            print(text, end="")
            return 0
        if given.check:
            return _check(output, text)
        write(output, text)
    except Conflict as error:
        return _failed(NOT_OURS, error)
    except (SmartError, requests.RequestException) as error:
        return _failed(NO_DESCRIPTION, error)
    print(f"wrote {output}")
    return 0


def fetch(where: str) -> Any:
    """The description at a URL or in a file, as JSON. Raises Unavailable, ValidationFailed, or an error of requests."""
    shown = redact_text(where)
    try:
        if "://" in where:
            import smartclient

            answer: Any = smartclient.get(where, timeout=10)
            answer.raise_for_status()
            return answer.json()
        return json.loads(Path(where).read_text(encoding="utf-8"))
    except OSError as error:
        if isinstance(error, requests.RequestException):
            raise
        raise Unavailable(f"{shown} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValidationFailed(f"{shown} is no JSON: is it the description of a service?") from error


def write(output: Path, text: str) -> None:
    """Write the module. Raises Conflict, and writes nothing, where a file stands that this command has not written."""
    if output.exists() and consumer.MARK not in output.read_text(encoding="utf-8")[:2000]:
        raise Conflict(f"{output} was not written by this command: name another file with --output, or remove it.")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unavailable(f"{output} cannot be written: {error.strerror}.") from error


def _check(output: Path, text: str) -> int:
    """Whether the file says what would be written, whatever release and source it names."""
    try:
        there = output.read_text(encoding="utf-8")
    except FileNotFoundError:
        there = ""
    if consumer.without_origin(there) == consumer.without_origin(text):
        return 0
    print(f"{output} is not up to date: write it anew without --check.", file=sys.stderr)
    return OUT_OF_DATE


def _failed(code: int, error: BaseException) -> int:
    print(f"smartclient: {redact_text(str(error))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smartclient", description="What belongs to calling services.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser(
        "consumer",
        help="write typed functions from a service's OpenAPI description",
        description="Write typed functions for calling a service, from its OpenAPI description.",
    )
    one.add_argument("service", help="the name of the service")
    one.add_argument(
        "--url", metavar="URL", help="where the description is: a URL or a file; else the service is asked"
    )
    one.add_argument("--output", metavar="FILE", type=Path, help="the file to write; else NAME_client.py")
    one.add_argument("--dry-run", action="store_true", help="print instead of writing")
    one.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the file is not up to date")
    return parser


if __name__ == "__main__":
    sys.exit(main())
