"""Which value wins, and what is a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from smartconfig import Override, Overrides, load
from tests.unit.smartconfig.configs import Teller, config, mistakes, said, settings


def test_the_order_of_the_layers() -> None:
    """Base, module, `*` scope, own scope, environment, explicit: each one beats all below it."""
    base, upper = config("A = 0", "base.defaults"), config("A = 1")
    source = Teller(said("v1", None, everyone={"A": 2}, identity={"A": 3}))
    found = load(upper, base=[base], source=source, environ={"A": "4"}, overrides={"A": 5}, keep=False)
    (item,) = found.explain("A")
    assert found.snapshot["A"] == 5
    assert item.winner == "explicit override"
    assert [(lost.value, lost.origin, lost.author) for lost in item.losers] == [
        ("4", "environment variable A", None),
        (3, "atlas, scope identity, by anna", "anna"),
        (2, "atlas, scope *, by anna", "anna"),
        (1, "identity.config", None),
        (0, "base.defaults", None),
    ]


def test_the_environment_counts_for_declared_names_only() -> None:
    """A variable that no module declares is not a setting."""
    found = settings("PAGE_SIZE = 1", environ={"PAGE_SIZE": "2", "PATH": "/bin"})
    assert dict(found.snapshot) == {"PAGE_SIZE": 2}


def test_what_is_meant_for_others_is_ignored() -> None:
    """A `*` override of a name that this service lacks, and every scope of another service, change nothing."""
    source = Teller(said("v1", None, everyone={"OTHER": 2}, billing={"PAGE_SIZE": 3, "NONSENSE": 1}))
    assert dict(settings("PAGE_SIZE = 1", source=source, keep=False).snapshot) == {"PAGE_SIZE": 1}


def test_an_unknown_name_in_the_own_scope_is_a_mistake() -> None:
    """The name, where it was given, by whom, and what was likely meant."""
    source = Teller(said("v1", None, identity={"PAGE_SIZ": 2, "NONSENSE_XYZ": 1}))
    assert mistakes("PAGE_SIZE = 1", source=source, keep=False) == [
        "PAGE_SIZ (atlas, scope identity, by anna): identity.config declares no such setting; did you mean PAGE_SIZE?",
        "NONSENSE_XYZ (atlas, scope identity, by anna): identity.config declares no such setting.",
    ]


def test_a_name_given_twice_in_one_scope_is_a_mistake() -> None:
    """Two values for one name in the same scope contradict each other."""
    entries = (Override("A", 2, scope=""), Override("A", 3, scope="identity"))
    found = mistakes("A = 1", source=Teller(Overrides("v1", entries)), keep=False)
    assert found == ["A is given twice: atlas, and atlas, scope identity."]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"TESTING": True, "BABEL_LOCALE": "de"}, None),
        ({"PAGE_SIZED": 1}, None),
        (
            {"PAGE_SIZ": 1},
            "PAGE_SIZ (explicit override): identity.config declares no such setting; did you mean PAGE_SIZE?",
        ),
        ({"page_size": 1}, "the name of a setting is written in upper case; did you mean PAGE_SIZE?"),
        ({"other": 1}, "other (explicit override): the name of a setting is written in upper case."),
    ],
)
def test_explicit_overrides_may_be_new(overrides: dict[str, Any], complaint: str | None) -> None:
    """Settings of Flask and its extensions may be given; a near miss of a declared or wrong-cased name may not."""
    if complaint is None:
        found = settings("PAGE_SIZE = 1", overrides=overrides, known=["PAGE_SIZED"])
        assert dict(found.snapshot) == {"PAGE_SIZE": 1, **overrides}
    else:
        assert complaint in mistakes("PAGE_SIZE = 1", overrides=overrides)[0]


def test_all_mistakes_are_in_one_message() -> None:
    """One restart is enough: key, value, origin and expectation of each mistake."""
    source = Teller(said("v1", None, everyone={"LIMIT": "x"}, identity={"TYPO": 1}))
    found = mistakes(
        "PAGE_SIZE = 1\nLIMIT: int = 2\nDEBUG = False\nNEEDED: int",
        source=source,
        environ={"PAGE_SIZE": "many"},
        overrides={"DEBUG": "maybe"},
        keep=False,
    )
    assert sorted(found) == sorted(
        [
            'PAGE_SIZE = "many" (environment variable PAGE_SIZE): expected a whole number.',
            'LIMIT = "x" (atlas, scope *, by anna): expected a whole number.',
            'DEBUG = "maybe" (explicit override): expected true or false.',
            "TYPO (atlas, scope identity, by anna): identity.config declares no such setting.",
            "NEEDED has no value: identity.config declares no default, so give one in the environment variable NEEDED "
            "or as an override (expected a whole number).",
        ]
    )


def test_a_mistake_in_a_default_is_told_too() -> None:
    """A default that does not fit its own annotation names the module."""
    assert mistakes("A: int = None") == ["A = null (identity.config): expected a whole number."]


def test_a_value_that_is_overridden_need_not_fit() -> None:
    """Only what is in force has to be right."""
    assert settings("A: int = None", environ={"A": "1"}).snapshot["A"] == 1


HUNTER = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ("A: Secret[int] = 1", {"environ": {"A": HUNTER}}),
        ("DB_PASSWORD: int = 1", {"environ": {"DB_PASSWORD": HUNTER}}),
        ("from pydantic import Field\nfrom typing import Annotated\nA: Secret[Annotated[str, Field(max_length=3)]] = ''",
         {"environ": {"A": HUNTER}}),
        ("from typing import Literal\nA: Secret[Literal['x']] = 'x'", {"environ": {"A": HUNTER}}),
        ("import pydantic\nclass M(pydantic.BaseModel):\n    x: int = 1\nA: Secret[M] = M()",
         {"overrides": {"A": {"x": HUNTER, HUNTER: 1}}}),
        ("import pydantic\ndef check(text):\n    raise ValueError(f'bad {text}')\nfrom typing import Annotated\n"
         "A: Secret[Annotated[str, pydantic.AfterValidator(check)]]", {"environ": {"A": HUNTER}}),
        ("URL = 1", {"environ": {"URL": f"postgres://anna:{HUNTER}@db/x"}}),
        ("URL = 1", {"environ": {"URL": f"postgres//anna:{HUNTER}@db/x"}}),
        ("A = 1", {"source": Teller(Overrides("v", (Override("A", HUNTER, secret=True),))), "keep": False}),
        ("B: Secret[str] = 'x'\ndef validate(config):\n    return [f'{config[\"B\"]} is bad']", {"environ": {"B": HUNTER}}),
        ("B: Secret[str] = 'x'\ndef validate(config):\n    raise ValueError(config['B'])", {"environ": {"B": HUNTER}}),
    ],
)  # fmt: skip
def test_a_mistake_never_shows_a_secret(source: str, arguments: dict[str, Any]) -> None:
    """Whether secret by mark, by name, by shape or by the source's word, the value is masked in the message."""
    found = mistakes(source, **arguments)
    assert len(found) >= 1
    assert HUNTER not in "".join(found)


def test_a_secret_still_says_what_was_expected() -> None:
    """The rule that a secret breaks is told, the secret is not."""
    source = "from pydantic import Field\nfrom typing import Annotated\nA: Secret[Annotated[str, Field(min_length=20)]]"
    assert mistakes(source, environ={"A": HUNTER}) == [
        "A = ******** (environment variable A): expected String should have at least 20 characters."
    ]


def test_rules_across_settings() -> None:
    """The sentences of a module's own `validate` are mistakes; an imported function of that name is none."""
    rule = "def validate(config):\n    if config['A'] > config['B']:\n        yield 'A must not be above B.'\n"
    assert mistakes(f"A = 1\nB = 2\n{rule}", environ={"A": "3"}) == ["A (environment variable A) must not be above B."]
    assert settings(f"A = 1\nB = 2\n{rule}").snapshot["A"] == 1
    said = "def validate(config):\n    if config['A'] > 2:\n        yield f\"A is {config['A']}: at most 2.\"\n"
    assert mistakes(f"A = 1\n{said}", environ={"A": "3"}) == ["A (environment variable A) is 3: at most 2."]
    assert settings("from smartconfig.conversion import convert as validate\nA = 1").snapshot["A"] == 1


def test_rules_are_told_together_with_values_that_do_not_fit() -> None:
    """One start shows both kinds of mistakes; a rule says nothing about a value that could not be read."""
    rule = (
        "def validate(config):\n"
        "    for name in config:\n"
        "        if config[name] > 9:\n"
        "            yield f'{name} is too large.'\n"
    )
    found = mistakes(f"A = 1\nB = 2\nC = 3\n{rule}", environ={"A": "many", "B": "10"})
    assert len(found) == 2
    assert found[0].startswith('A = "many" (environment variable A)')
    assert found[1] == "B (environment variable B) is too large."


def test_a_rule_that_fails_is_a_mistake() -> None:
    """A `validate` that raises stops the start with a sentence, not with a traceback."""
    found = mistakes("A = 1\ndef validate(config):\n    return config['NOWHERE']")
    assert found == ["identity.config: its validate() failed with KeyError: 'NOWHERE'"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "identity"),
        ({"service": "given"}, "given"),
        ({"environ": {"SERVICE_NAME": "outer"}}, "outer"),
        ({"overrides": {"SERVICE_NAME": "explicit"}, "environ": {"SERVICE_NAME": "outer"}}, "explicit"),
    ],
)
def test_the_name_of_the_service(arguments: dict[str, Any], name: str) -> None:
    """The argument, the setting SERVICE_NAME, or the package of the module; the setting is never empty."""
    found = settings("SERVICE_NAME = ''", realm="testing", **arguments)
    assert found.service == name
    assert found.realm == "testing"
    assert found.snapshot["SERVICE_NAME"] == (name if "service" not in arguments else "given")
