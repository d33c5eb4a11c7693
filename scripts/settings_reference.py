"""Write docs/reference/settings.md from smartservice/defaults.py: `python scripts/settings_reference.py [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

import smartconfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"
HEAD = """# Settings of the framework

Each is a name in a service's config module, an environment variable, or an override at run time
(see [config](config.md)). A setting that *needs a restart* keeps its value in a running process; the new one is reported as
pending. A *secret* is never shown. This page is written by `scripts/settings_reference.py` from `smartservice/defaults.py`.

| setting | type | default | what it is | |
|---|---|---|---|---|
"""
TAIL = """
## Read before the settings

These variables of the environment decide where settings come from, so they cannot be settings themselves.

| variable | default | what it is |
|---|---|---|
| `REALM` | `local` | The realm of this process: `local` is a laptop, any other name an environment. |
| `CONFIG_FILE` | none | A JSON file with overrides, followed while the service runs. |
| `STATE_DIR` | `$XDG_STATE_HOME/smartservice` | Where the last good overrides are kept, readable by their owner only. When it is set, the [retry budget](smartclient-calls.md#when-a-call-is-tried-again) too. |
| `SIDECAR_DIR` | `/run/smartservice/<realm>`, else `STATE_DIR/sidecar/<realm>` | Where this service and the [sidecar of its host](service.md#the-sidecar-of-its-host) meet. |
| `FINGERPRINT_KEY` | `SECRET_KEY`, else realm and service | The key of the fingerprints that `explain` shows for secrets. |
| `RELOAD` | off | `1`: gunicorn restarts workers when a file changes, without a drain. For development. |
| `TEST_DATABASE_URL`, `TEST_REDIS_URL` | a SQLite file; none | The servers that a service's own tests use. |
"""


def page() -> str:
    """The whole page as Markdown."""
    settings = smartconfig.load("smartservice.defaults", environ={}, service="reference", keep=False)
    lines = []
    for shown in settings.explain():
        notes = ["secret"] * shown.secret + ["needs a restart"] * shown.needs_restart
        default = "" if shown.value in ("", "(empty)") else f"`{shown.value!r}`"
        kind = shown.type.replace(" | ", " or ")
        lines.append(f"| `{shown.key}` | `{kind}` | {default} | {shown.description} | {', '.join(notes)} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
