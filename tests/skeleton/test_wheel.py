"""The wheel of the toolkit holds the whole template, dot files included, and nothing that a machine has compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skeleton import repository, toolkit
from skeleton.environment import Installer, find_uv
from skeleton.processes import Processes
from tests.skeleton.conftest import BIN, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    cache = tmp_path_factory.mktemp("cache")
    processes = Processes()
    installer = Installer(processes, os.environ, cache, find_uv(os.environ))
    built = toolkit.wheel_of(toolkit.find_origin(), cache, installer.build_wheel)
    processes.end_all()
    assert built is not None
    return built


def test_every_file_of_the_template_is_in_the_wheel(wheel: Path) -> None:
    """Dot files, files with brackets in their names, everything."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    root = repository.TEMPLATE.parent.parent
    here = {
        path.relative_to(root).as_posix()
        for path in repository.TEMPLATE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "skeleton/template/[[ cookiecutter.name ]]/.service.toml" in here
    assert {name for name in names if name.startswith("skeleton/template/")} == here


def test_every_file_of_the_pages_is_in_the_wheel(wheel: Path) -> None:
    """Those of Atlas, of a sidecar, and what they share."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    root = repository.TEMPLATE.parent.parent
    folders = [root / "atlas" / "page", root / "atlas" / "server" / "page", root / "sidecar" / "page"]
    here = {path.relative_to(root).as_posix() for folder in folders for path in folder.iterdir()}
    assert "atlas/page/frame.js" in here
    assert here - names == set()


def test_nothing_compiled_and_no_test_is_in_the_wheel(wheel: Path) -> None:
    """No __pycache__, no .pyc, no tests, no benchmarks."""
    with zipfile.ZipFile(wheel) as opened:
        unwanted = [name for name in opened.namelist() if name.endswith(".pyc") or name.startswith(("tests/", "bench"))]
    assert unwanted == []


def test_installed_from_the_wheel_the_generator_carries_that_wheel_on(wheel: Path, tmp_path: Path) -> None:
    """An installation from a file generates with the same files, and none that pip compiled among the template."""
    site = tmp_path / "site"
    more = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    uv = find_uv(os.environ)
    assert uv is not None
    run([uv, "pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--target", site, wheel], tmp_path, more)
    assert list(site.rglob("__pycache__"))
    path = os.pathsep.join([str(site)])
    program = "import sys; from skeleton.cli import main; sys.argv[0] = 'generate-service'; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "hello", "--no-verify", "--into", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "hello" / "vendor").glob("smartservice-*.whl"))) == 1
    compiled = [path for path in (tmp_path / "hello").rglob("*.pyc") if ".venv" not in path.parts]
    assert compiled == []
