"""The files of a page, for whoever serves one: those of its own folder and those that all pages share, and their policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SHARED = Path(__file__).with_name("page")

TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""A browser loads nothing from elsewhere, shows the page in no frame, and asks before it takes a file from its cache."""


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this name, of the page's own folder or the shared one; None for anything else, whatever the name holds."""
    found = {path.name: path for each in (SHARED, folder) for path in each.iterdir() if path.suffix in TYPES}
    return found.get(name)
