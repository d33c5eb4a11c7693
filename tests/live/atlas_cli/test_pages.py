"""The files of the page: sent with a strict policy, and holding nothing that would need a looser one."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from atlas.pages import SHARED
from atlas.server import pages


@pytest.fixture
def client() -> FlaskClient:
    """An app with nothing but the page."""
    app = Flask("plain")
    pages.install(app)
    return app.test_client()


def test_every_file_that_the_page_names_is_sent(client: FlaskClient) -> None:
    """With its type, the policy, and a question before it is taken from a cache."""
    index = client.get("/")
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', index.text)
    assert len(names) == 8
    for path in ["", *names]:
        response = client.get(f"/{path}")
        assert response.status_code == 200, path
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-cache"
        again = client.get(f"/{path}", headers={"If-None-Match": response.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    "name", ["index.html", "../pages.py", "..%2fpages.py", "page.py", "nothing.js", "%2e%2e/cli.py"]
)
def test_nothing_else_is_sent(client: FlaskClient, name: str) -> None:
    """Neither files beside the folder nor those that are not there."""
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_makes_no_markup_of_text() -> None:
    """No way in which text becomes markup or code, and no other origin."""
    for path in (*SHARED.iterdir(), *pages.FOLDER.iterdir()):
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "style="):
            assert word not in text, f"{word} in {path.name}"
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name
