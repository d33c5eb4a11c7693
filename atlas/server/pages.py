"""The page at `/`: plain files beside this one, sent with a policy that lets a browser load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response, abort, request

from atlas.pages import HEADERS, TYPES, find_file

FOLDER = Path(__file__).with_name("page")


def install(app: Flask) -> None:
    """Give the app its page. The files hold nothing of the map: what they show, they ask of `/v1/` with the viewer's token."""
    app.add_url_rule("/", "page", _index)
    app.add_url_rule("/page/<name>", "page-file", _file)


def _index() -> Response:
    return _send("index.html")


def _file(name: str) -> Response:
    if name == "index.html":
        abort(404)
    return _send(name)


def _send(name: str) -> Response:
    path = find_file(FOLDER, name)
    if path is None:
        abort(404)
    response = Response(path.read_bytes(), mimetype=TYPES[path.suffix])
    response.headers.update(HEADERS)
    response.add_etag()
    response.make_conditional(request)
    return response
