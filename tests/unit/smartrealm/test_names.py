import pytest

from smartrealm import ConfigurationError, Realm, ServiceName


@pytest.mark.parametrize("name", ["identity", "team-identity", "a", "x1", "a" * 63])
def test_a_dns_label_is_a_service_name(name: str) -> None:
    """Whatever can stand in a host name can name a service."""
    assert ServiceName(name) == name


@pytest.mark.parametrize(
    "name", ["", "Identity", "1st", "-a", "a-", "a--b", "a_b", "a.b", "a/b", "../a", "a" * 64, "ä", "a\n"]
)
def test_anything_else_is_refused_with_the_rule(name: str) -> None:
    """A wrong name is refused by a sentence that says what a right one looks like."""
    with pytest.raises(ConfigurationError, match="lower-case letters, digits and single hyphens"):
        ServiceName(name)


def test_a_service_is_called_like_its_package() -> None:
    """The package of the config module names the service, with hyphens for underscores."""
    assert ServiceName.from_package("team_identity.config") == "team-identity"


def test_the_realm_is_local_unless_the_environment_says_otherwise() -> None:
    """REALM decides; a laptop needs nothing set."""
    assert Realm.from_environment({}).is_local
    assert Realm.from_environment({"REALM": ""}) == "local"
    assert Realm.from_environment({"REALM": "production"}) == "production"
    with pytest.raises(ConfigurationError):
        Realm.from_environment({"REALM": "Prod!"})
