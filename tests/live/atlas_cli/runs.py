"""Runs of the command in this process, over a map in a SQLite file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import atlas
from atlas import Author, Directory, Instance, Lease, Service
from atlas.server.cli import atlas as command
from atlas.server.terminal import Tools

ANNA = Author("anna")


class Runs:
    """Call it with the words of a command line; what it wrote and its exit code come back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'realm.db'}"
        self.environ = {
            "ATLAS_URL": self.url,
            "ATLAS_AUTHOR": "anna",
            "STATE_DIR": str(folder / "state"),
            "HOME": str(folder),
        }
        self.now = 0.0
        """Seconds that the clock of the commands is ahead of the real one."""
        self.sleep: Callable[[float], None] = time.sleep
        """How the commands wait."""
        self.map: Directory = atlas.open(self.url, environ=self.environ)

    def __call__(self, *words: str, input: str | None = None, **environ: str) -> Result:
        tools = Tools(environ={**self.environ, **environ}, clock=lambda: time.time() + self.now, sleep=self.sleep)
        return CliRunner().invoke(command, list(words), input=input, obj=tools, prog_name="atlas")

    def ok(self, *words: str, input: str | None = None, **environ: str) -> str:
        """What a command wrote to stdout, which must end well."""
        result = self(*words, input=input, **environ)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str, **environ: str) -> Any:
        """The document of a command with --json."""
        return json.loads(self.ok(*words, "--json", **environ))

    @property
    def revision(self) -> int:
        return self.map.world().position.revision

    def fill(self) -> None:
        """identity on web-1 and web-2, teams on web-1, everything held by one lease for each host."""
        self.map.put_service(Service("identity", owner="accounts", port=8010, description="Who is who"), by=ANNA)
        self.map.put_service(Service("teams", owner="people", port=8011), by=ANNA)
        self.hold("web-1", Instance("identity", "web-1", 8010, version="1.4"), Instance("teams", "web-1", 8011))
        self.hold("web-2", Instance("identity", "web-2", 8010, version="1.3"))

    def hold(self, lease: str, *instances: Instance) -> None:
        self.map.hold(Lease(lease, "first", ttl_seconds=15.0, instances=instances, opened_at=time.time()))

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *error: object) -> None:
        self.map.close()
