"""Names are refused before anything is written, and each refusal names a way out."""

from __future__ import annotations

import pytest

from skeleton import names
from skeleton.errors import WrongUse
from skeleton.repository import TEMPLATE
from tests.unit.skeleton.bad_names import BAD_NAMES


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_bad_name_is_refused_with_a_suggestion_that_is_accepted(name: str) -> None:
    """Every refusal offers another name, and that one passes the same check."""
    with pytest.raises(WrongUse) as refused:
        names.check_name(name)
    assert names.check_name(refused.value.suggestion) == refused.value.suggestion
    assert refused.value.suggestion in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.message.isascii()


def test_no_service_is_called_like_something_in_every_repository() -> None:
    """A package beside a module or folder of its own name would hide it: `flask` would not find the app in `wsgi.py`."""
    (root,) = TEMPLATE.glob("[[]*")
    ours = [
        path.stem for path in root.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name.isidentifier())
    ]
    assert "wsgi" in ours
    for name in ours:
        with pytest.raises(WrongUse):
            names.check_name(name)


@pytest.mark.parametrize("name", ["hello", "a", "team-identity", "v2", "orders2", "x" * 40, "payments-api"])
def test_a_good_name_is_given_back(name: str) -> None:
    """Lower-case labels that are nobody else's package are accepted as they are."""
    assert names.check_name(name) == name


@pytest.mark.parametrize(
    ("bad", "near"),
    [
        ("Hello", "hello"),
        ("team_identity", "team-identity"),
        ("../evil", "evil"),
        ("café", "cafe"),
        ("2fast", "service-2fast"),
        ("redis", "redis-service"),
        ("class", "class-service"),
        ("", "my-service"),
    ],
)
def test_the_suggestion_is_near(bad: str, near: str) -> None:
    """The suggestion keeps as much of the word as a service name can hold."""
    assert names.suggest(bad) == near


def test_the_package_of_a_service_has_underscores() -> None:
    """A hyphen, which no Python name can hold, becomes an underscore."""
    assert names.package_of("team-identity") == "team_identity"


@pytest.mark.parametrize("owner", ["", "two words", "-team", "team-", "a/b", "{{ x }}", "é", "x" * 64, "a\nb"])
def test_a_bad_owner_is_refused_with_a_suggestion(owner: str) -> None:
    """An owner becomes a label of Kubernetes and a line of a file, so it is checked like one."""
    with pytest.raises(WrongUse) as refused:
        names.check_owner(owner)
    assert names.check_owner(refused.value.suggestion)


@pytest.mark.parametrize("port", [-1, 0, 80, 1023, 64536, 70000])
def test_a_port_that_cannot_be_bound_is_refused(port: int) -> None:
    """A port that needs root, or whose management port does not exist, is refused with a better one."""
    with pytest.raises(WrongUse) as refused:
        names.check_port(port)
    assert names.check_port(int(refused.value.suggestion))


def test_components_come_in_one_order_and_once() -> None:
    """--with db,redis and --with redis --with db,db mean the same."""
    assert names.check_components(["redis", "db,db"]) == names.check_components(["db,redis"]) == ("db", "redis")
    assert names.check_components([]) == ()


@pytest.mark.parametrize(("word", "meant"), [("postgres", "db"), ("databse", "db"), ("reddis", "redis"), ("DB", "db")])
def test_an_unknown_component_gets_a_did_you_mean(word: str, meant: str) -> None:
    """A word that is nearly a component names the one that was meant."""
    with pytest.raises(WrongUse, match=f"did you mean '{meant}'") as refused:
        names.check_components([word])
    assert refused.value.suggestion == meant


def test_a_component_like_no_other_gets_the_list() -> None:
    """A word without a neighbour gets the names that exist."""
    with pytest.raises(WrongUse, match="there are db and redis"):
        names.check_components(["xyzzy"])
