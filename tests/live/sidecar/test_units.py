"""The written units, in the eyes of systemd itself."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIDECAR = Path(sys.executable).with_name("sidecar")
UNITS = ("smartservice-proxy.service", "smartservice-sidecar.service")
MOST_EXPOSED = 3.0
"""Of 10, by systemd's own measure; a unit without any hardening has 9.6."""


@pytest.fixture
def analyze() -> str:
    """The program systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The written files. The user of the sidecar is one that exists here, for systemd looks it up."""
    ended = subprocess.run(
        [SIDECAR, "units", "--to", tmp_path, "--realm", "production"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for name in UNITS:
        unit = tmp_path / name
        unit.write_text(
            re.sub(r"^(User|Group)=smartservice$", rf"\1={getpass.getuser()}", unit.read_text(), flags=re.M)
        )
    return tmp_path


def test_systemd_takes_the_units(analyze: str, folder: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about them, together."""
    ended = subprocess.run(
        [analyze, "verify", *(folder / name for name in UNITS)], capture_output=True, text=True, check=False
    )
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if any(name in line for name in UNITS)]
    assert (ended.returncode, said) == (0, [])


def test_the_units_are_little_exposed(analyze: str, folder: Path) -> None:
    """systemd rates both as well protected."""
    for name in UNITS:
        ended = subprocess.run(
            [analyze, "security", "--offline=yes", folder / name], capture_output=True, text=True, check=False
        )
        rated = re.search(r"exposure level for \S+: ([0-9.]+)", ended.stdout)
        if rated is None:
            pytest.skip("this systemd-analyze does not rate files")
        assert float(rated[1]) <= MOST_EXPOSED, ended.stdout


def test_systemd_takes_the_unit_of_a_generated_service(analyze: str, tmp_path: Path) -> None:
    """It too, with a program in place of the one that is installed later."""
    template = (
        Path(__file__).parents[3] / "skeleton/template/[[ cookiecutter.name ]]/deploy/[[ cookiecutter.name ]].service"
    )
    text = re.sub(r"^\[%.*?%\]\n", "", template.read_text(), flags=re.M).replace("[[ cookiecutter.name ]]", "hello")
    unit = tmp_path / "hello.service"
    unit.write_text(text.replace("/srv/hello/.venv/bin/python", sys.executable))
    ended = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if "hello.service" in line]
    assert (ended.returncode, said) == (0, [])
