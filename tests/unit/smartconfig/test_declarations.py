"""What a module of defaults declares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import smartconfig
from smartconfig import load
from smartconfig.declarations import declare, find_module
from smartconfig.descriptions import description
from smartrealm import ConfigurationError
from tests.unit.smartconfig.configs import config, mistakes, settings


def test_public_names() -> None:
    """The package offers exactly these names."""
    assert sorted(smartconfig.__all__) == [
        "Explanation",
        "FileSource",
        "NeedsRestart",
        "Override",
        "Overrides",
        "Secret",
        "Settings",
        "Snapshot",
        "Source",
        "SourceStatus",
        "load",
        "render_explanations",
    ]


def test_upper_case_names_are_the_settings() -> None:
    """Only public upper-case names that are no modules and no type variables are settings."""
    module = config("import os as OS\nfrom typing import TypeVar\nT = TypeVar('T')\nA = 1\nb = 2\n_C = 3\nA_1: int = 4")
    assert set(declare([module]).by_key) == {"A", "A_1"}


def test_a_class_or_function_is_a_setting_under_another_name_only() -> None:
    """What a module imports or defines is no setting; what it chooses is one, as in Flask."""
    module = config("from uuid import UUID\nclass X: pass\ndef F(): pass\nJOB_CLASS = X\nON_ERROR = F")
    assert set(declare([module]).by_key) == {"JOB_CLASS", "ON_ERROR"}


@pytest.mark.parametrize(
    ("source", "text", "value"),
    [
        ("A = 1", "7", 7),
        ("A = True", "off", False),
        ("A = 'x'", "7", "7"),
        ("A = 1.5", "2", 2.0),
        ("A = None", "7", "7"),
        ("A = ['x']", "y,z", ["y", "z"]),
        ("A: Secret = 1", "7", 7),
    ],
)
def test_a_default_gives_the_type(source: str, text: str, value: object) -> None:
    """Where nothing is annotated, the type of the default rules; True is no number and None says nothing."""
    found = settings(source, environ={"A": text}).snapshot["A"]
    assert found == value
    assert type(found) is type(value)


def test_postponed_annotations_are_read() -> None:
    """`from __future__ import annotations` and Final make no difference."""
    source = "from __future__ import annotations\nfrom typing import Final\nA: Final[int] = 1\nB: Final = 'x'"
    module = ModuleType("identity.config")
    exec(compile(source, "identity.config", "exec", dont_inherit=True), vars(module))
    assert dict(load(module, environ={"A": "3"}).snapshot) == {"A": 3, "B": "x"}


def test_an_annotation_that_cannot_be_read_is_a_mistake() -> None:
    """One unknown type is reported by name and does not hide the other mistakes."""
    found = mistakes("A: 'Nowhere' = 1\nB: int = 2", environ={"B": "x"})
    assert len(found) == 2
    assert found[0].startswith("A (identity.config): its annotation 'Nowhere' cannot be read")


def test_a_name_that_is_only_annotated_is_required() -> None:
    """A setting without a default has to be given; the message says how, and that it is secret."""
    assert mistakes("STRIPE: Secret[str]") == [
        "STRIPE has no value: identity.config declares no default, so give one in the environment variable STRIPE or "
        "as an override (expected text, secret)."
    ]


def test_modules_stack() -> None:
    """The upper module's default wins, keeps the lower one's type, and marks add up."""
    base = config("WORKERS: NeedsRestart[int] = 2\nSTRIPE: Secret[str] = ''\nC = 1", "base.defaults")
    upper = config("WORKERS = 4\nSTRIPE: str = 'abcd'\nD = 1")
    found = load(upper, base=[base], environ={"WORKERS": "6"})
    workers, token = found.explain("WORKERS")[0], found.explain("STRIPE")[0]
    assert (workers.value, workers.type, workers.needs_restart) == (6, "int", True)
    assert [lost.origin for lost in workers.losers] == ["identity.config", "base.defaults"]
    assert token.secret
    assert token.winner == "identity.config"
    assert {"C", "D"} <= set(found.snapshot)


@pytest.mark.parametrize(
    "annotation",
    [
        "Secret[str]",
        "Secret",
        "Secret[str] | None",
        "list[Secret[str]]",
        "Secret[NeedsRestart[str]]",
        "NeedsRestart[Secret[str]]",
        "typing.Annotated[str, Secret]",
        "typing.Annotated[str, 'for payments', NeedsRestart, Secret[str]]",
        "pydantic.SecretStr",
        "Model",
    ],
)
def test_a_secret_is_found_wherever_it_is_marked(annotation: str) -> None:
    """Marks count outside, inside a union, a list, a model, combined, and as pydantic's own type."""
    source = "import pydantic, typing\nclass Model(pydantic.BaseModel):\n    inner: Secret[str] = 'x'\n"
    declared = declare([config(f"{source}A: {annotation} = None")]).by_key["A"]
    assert declared.secret
    assert declared.needs_restart == ("NeedsRestart" in annotation)


def test_a_secret_name_is_a_secret() -> None:
    """A name from the redaction rules is secret without a mark, unless it is a switch."""
    found = declare([config("DB_PASSWORD = 'x'\nUSE_TOKEN = True\nPAGE_SIZE = 1")]).by_key
    assert [key for key, item in found.items() if item.secret] == ["DB_PASSWORD"]


def test_descriptions(tmp_path: Path) -> None:
    """The docstring below a name describes it, else the comment right above, else the one beside it."""
    source = '''
# Above.
# Two lines.
A = 1
B: int = 2  # beside
C = 3
"""Below,
   and more."""

# far away

D = 4  # noqa: E501
# Above E.
E = "# no comment"
if A:
    F = 1  # in a branch
'''
    module = config(source, file=tmp_path / "config.py")
    found = {key: description(key, [module]) for key in "ABCDEF"}
    assert found == {
        "A": "Above.\nTwo lines.",
        "B": "beside",
        "C": "Below,\nand more.",
        "D": "",
        "E": "Above E.",
        "F": "in a branch",
    }


def test_a_missing_module_says_what_to_do() -> None:
    """The message of a missing module names sys.path; a failing one says what failed."""
    with pytest.raises(ConfigurationError, match=r"no module nowhere_at_all\.config.*sys\.path"):
        load("nowhere_at_all.config", environ={})


@pytest.mark.parametrize("given", ["", ".config", None, {"PAGE_SIZE": 1}, Path])
def test_what_is_no_module_is_refused_with_an_example(given: Any) -> None:
    """A dictionary or a class, as Flask's own config takes them, gets a sentence that says what to give."""
    with pytest.raises(ConfigurationError, match=r"such as 'identity\.config'"):
        find_module(given)


def test_a_module_that_fails_is_told_from_a_missing_one(tmp_path: Path) -> None:
    """An import error inside the config module names what is missing, not the config module."""
    (tmp_path / "failing_config_x.py").write_text("import not_installed_anywhere\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(ConfigurationError, match="needs not_installed_anywhere"):
            load("failing_config_x", environ={})
    finally:
        sys.path.remove(str(tmp_path))


def test_plain_settings_never_import_pydantic() -> None:
    """Importing the package, loading typed defaults and converting plain text from the environment is cheap."""
    program = (
        "import sys, types\n"
        "from smartconfig import load, Secret\n"
        "m = types.ModuleType('hello.config')\n"
        "m.__annotations__ = {'A': int, 'B': Secret[str], 'C': list[str], 'D': float | None, 'E': bool}\n"
        "m.A, m.B, m.C, m.D, m.E = 1, '', ['x'], None, True\n"
        "load(m, environ={'A': '2', 'C': 'a,b', 'D': '1.5', 'E': 'no'})\n"
        "print(sorted({'pydantic', 'difflib', 'argparse', 'smartconfig.descriptions'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
