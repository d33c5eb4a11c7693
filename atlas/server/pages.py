"""The page at `/`: plain files beside this one, sent with a policy that lets a browser load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, abort, send_from_directory

FOLDER = Path(__file__).with_name("page")

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEADERS = {
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


def install(app: Flask) -> None:
    """Give the app its page. The files hold nothing of the map: what they show, they ask of `/v1/` with the viewer's token."""
    app.add_url_rule("/", "page", _index)
    app.add_url_rule("/page/<name>", "page-file", _file)


def _index() -> Response:
    return _send("index.html")


def _file(name: str) -> Response:
    if Path(name).suffix not in _TYPES or name == "index.html":
        abort(404)
    return _send(name)


def _send(name: str) -> Response:
    response = send_from_directory(FOLDER, name, mimetype=_TYPES[Path(name).suffix], conditional=True)
    response.headers.update(_HEADERS)
    return response
