"""The map of the modules, which a newcomer reads first, is the tree as it is."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import sidecar
import sidecar.drill


@pytest.mark.parametrize("package", [sidecar, sidecar.drill])
def test_every_module_has_its_line(package: ModuleType) -> None:
    """Each once, and none that is gone."""
    there = {path.name for path in Path(str(package.__file__)).parent.glob("*.py")} - {"__init__.py"}
    told = re.findall(r"^    (\w+\.py) ", str(package.__doc__), re.MULTILINE)
    assert sorted(told) == sorted(there)
