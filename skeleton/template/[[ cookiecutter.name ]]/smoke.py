"""A smoke test of a running service, through its URL: `python smoke.py URL`. Changes nothing."""

import json
import sys
import urllib.error
import urllib.request


def get(url: str) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (the caller's own URL)
            return answer.status, answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def main(base: str) -> int:
    """How many of the promises are broken."""
    broken = 0
    for path, wanted in (
        ("/healthcheck", (200, "application/json")),
        ("/healthcheck/ready", (200, "application/json")),
[% if cookiecutter.db %]
        ("/greetings", (200, "application/json")),
[% else %]
        ("/greetings?name=Smoke", (200, "application/json")),
[% endif %]
        ("/nothing-of-this-name", (404, "application/problem+json")),
    ):
        try:
            status, kind, body = get(base.rstrip("/") + path)
            json.loads(body)
        except (OSError, ValueError) as error:
            print(f"RED GET {path}: {error}")
            broken += 1
            continue
        held = (status, kind) == wanted
        broken += not held
        print(f"{'ok ' if held else 'RED'} GET {path}: {status} {kind}")
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
