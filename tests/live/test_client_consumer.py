"""`smartclient consumer` against a service that runs: what it writes is right for mypy and ruff, and calls the service."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from smartclient.__main__ import main
from smartclient.runtime import Mesh, Options, enter, leave
from tests.faults import world_of
from tests.live.service_process import Serve, serve

__all__ = ["serve"]

ROOT = Path(__file__).parents[2]

SERVICE = '''
import types
from typing import Any, Literal
from flask_restful import Resource
from pydantic import BaseModel, Field
from smartrealm.errors import NotFound
from smartservice import create_app
from smartservice.api import validated

class TeamIn(BaseModel):
    """What a team is founded with."""
    name: str = Field(min_length=1)
    kind: Literal["red", "a rather long word for a kind of team", "another rather long word"] = "red"

class Team(TeamIn):
    id: int
    boss: "Team | None" = None

class Page(BaseModel):
    page: int = 1
    only: list[str] = []
    sorted_by: Literal["name", "id"]

class Teams(Resource):
    @validated(query=Page)
    def get(self, query: Page) -> list[Team]:
        """The teams of one page."""
        return [Team(id=query.page, name=name) for name in [*query.only, query.sorted_by]]

    @validated(body=TeamIn)
    def post(self, body: TeamIn) -> tuple[Team, Literal[201]]:
        """Found a team.

        Answers "it" with its number.
        """
        return Team(id=1, name=body.name, kind=body.kind), 201

class OneTeam(Resource):
    def get(self, number: int) -> Team:
        if number == 404:
            raise NotFound("There is no team 404.")
        return Team(id=number, name="x", boss=Team(id=0, name="y"))

    def delete(self, number: int) -> tuple[str, Literal[204]]:
        return "", 204

config = types.ModuleType("identity.config")
config.RELEASE = "2.5"
app = create_app(config)
app.api.add_resource(Teams, "/teams")
app.api.add_resource(OneTeam, "/teams/<int:number>", endpoint="team")

@app.get("/files/<path:name>")
def file(name: str) -> str:
    return name
'''

USE = """
from identity_client import Team, TeamIn, file_get, team_delete, team_get, teams_get, teams_post

new: TeamIn = {"name": "blue"}
made: Team = teams_post(new, deadline=2.0, idempotency_key="k")
names: list[str] = [team["name"] for team in teams_get(sorted_by="name", page=2, only=["a"])]
text: str = file_get("a/b").text
team_delete(made["id"], headers={"X-Mine": "1"})
boss: Team | None = team_get(7).get("boss")
"""
WRONG = """
from identity_client import team_get, teams_get, teams_post

teams_post({"nome": "blue"})
teams_get(page=2)
teams_get(sorted_by="age")
team_get("seven").get("bass")
team_get(7, dead_line=2)
"""


@pytest.fixture
def client(serve: Serve, tmp_path: Path) -> Iterator[Any]:
    """The written module, with the running service in the map."""
    served = serve(SERVICE, REALM="testing")
    file = tmp_path / "identity_client.py"
    url = f"{served.base}/openapi.json"
    assert main(["consumer", "identity", "--url", url, "--output", str(file)]) == 0
    assert main(["consumer", "identity", "--url", url, "--output", str(file), "--check"]) == 0
    spec = importlib.util.spec_from_file_location("identity_client", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    world = world_of([f"127.0.0.1:{served.port}"])
    mesh = Mesh(Options(caller="tests", state_dir=str(tmp_path / "mesh")), world=lambda: world)
    token = enter(mesh)
    yield module
    leave(token)
    mesh.close()


def tool(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )


def test_a_written_client(client: Any, tmp_path: Path) -> None:
    """It is formatted, typed in strict mode so that mistakes are found, and calls the service that it was written from."""
    assert client.__doc__.startswith("identity 2.5, as functions")
    made = client.teams_post({"name": "blue"}, deadline=2.0)
    assert made == {"name": "blue", "kind": "red", "id": 1, "boss": None}
    teams = client.teams_get(sorted_by="name", page=2, only=["a", "b"])
    assert [team["name"] for team in teams] == ["a", "b", "name"]
    assert client.team_get(7)["boss"]["id"] == 0
    assert client.team_delete(7) is None
    assert client.file_get("a/b c").text == "a/b c"
    with pytest.raises(
        requests.HTTPError, match=r"identity answered 404 to GET /teams/\{number\}: not-found: There is no team"
    ):
        client.team_get(404)
    with pytest.raises(requests.HTTPError, match="422 to POST /teams: validation-failed"):
        client.teams_post({})

    file = tmp_path / "identity_client.py"
    for width in (88, 120):
        formatted = tool("ruff", "format", "--isolated", "--check", "--line-length", width, file, cwd=tmp_path)
        assert formatted.returncode == 0, formatted.stdout
    rules = "E,F,W,I,B,UP,S,SIM,RUF"
    checked = tool("ruff", "check", "--isolated", "--line-length", 120, "--select", rules, file, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "wrong.py").write_text(WRONG)
    typed = tool("mypy", "--strict", "--cache-dir", tmp_path / "cache", "use.py", "wrong.py", cwd=tmp_path)
    found = [
        line.partition(":")[0]
        for line in typed.stdout.splitlines()
        if ": error:" in line and "smartclient/" not in line
    ]
    assert set(found) == {"wrong.py"}, typed.stdout
    lines = {
        line.split(":")[1] for line in typed.stdout.splitlines() if line.startswith("wrong.py") and ": error:" in line
    }
    assert lines == {"4", "5", "6", "7", "8"}, typed.stdout
