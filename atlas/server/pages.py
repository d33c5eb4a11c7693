"""The page at `/`: plain files beside this one, sent with a policy that lets a browser load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, abort, request

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
    known = {path.name for path in FOLDER.iterdir() if path.suffix in _TYPES}
    if name not in known or name == "index.html":
        abort(404)
    return _send(name)


def _send(name: str) -> Response:
    path = FOLDER / name
    response = Response(path.read_bytes(), mimetype=_TYPES[path.suffix])
    response.headers.update(_HEADERS)
    response.add_etag()
    response.make_conditional(request)
    return response
