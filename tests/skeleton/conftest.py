"""One cache for the whole run, and services generated once for all tests that only look at them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from skeleton.environment import cache_folder

BIN = Path(sys.executable).parent
COMMAND = [str(BIN / "generate-service")]


class Generator:
    """Runs the real command in a folder, with a HOME and a cache of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
        # uv's own downloads are shared with the machine, as on a laptop; everything else is new.
        shared = {"UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(_uv_cache())}
        kept["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.env = {**kept, **shared, "HOME": str(home), "XDG_CACHE_HOME": str(cache)}
        self.into = folder / "into"
        self.into.mkdir()

    def command(self, *words: str) -> list[str]:
        return [*COMMAND, *words, "--into", str(self.into)]

    def __call__(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.folder, env={**self.env, **more}, capture_output=True, text=True, check=False
        )

    def left(self) -> list[str]:
        """What is in the folder that services are put into."""
        return sorted(path.name for path in self.into.iterdir())


def _uv_cache() -> Path:
    return cache_folder(os.environ).parent / "uv"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of this test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def generator(tmp_path: Path, cache: Path) -> Generator:
    """The command, in a place of its own."""
    return Generator(tmp_path, cache)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[[tuple[str, ...]], Path]:
    """A service with these components, generated once and not proven, since tests run its own: look at it, change nothing in it."""
    made: dict[tuple[str, ...], Path] = {}

    def get(components: tuple[str, ...]) -> Path:
        if components not in made:
            generator = Generator(tmp_path_factory.mktemp("generated"), cache)
            ended = generator("team-identity", "--no-verify", *(["--with", ",".join(components)] if components else []))
            assert ended.returncode == 0, ended.stdout + ended.stderr
            made[components] = generator.into / "team-identity"
        return made[components]

    return get


def run(command: list[str | Path], cwd: Path, env: Mapping[str, str], seconds: float = 300) -> str:
    """The output of a program that ends well."""
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
