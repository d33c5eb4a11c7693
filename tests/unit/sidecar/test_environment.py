"""The settings of a sidecar come from the environment, each checked, all mistakes at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from sidecar.environment import LONGEST_DIRECTORY, VARIABLES, haproxy_program, settings_from
from sidecar.settings import Settings
from smartrealm.errors import ConfigurationError


def test_every_setting_has_a_variable_and_its_default() -> None:
    """None is forgotten; what nobody says is as `Settings` has it."""
    assert set(VARIABLES) == {one.name for one in fields(Settings)}
    found = settings_from({"SIDECAR_DIR": "/run/s", "STATE_DIR": "/var/s"})
    assert found == Settings(Path("/run/s"), Path("/var/s/sidecar/local"))


def test_all_of_them_are_read() -> None:
    """As the type that each has; what is given beside stands above the environment."""
    environ = {
        "SIDECAR_DIR": "/run/s",
        "SIDECAR_STATE": "/var/x",
        "REALM": "staging",
        "ATLAS_URL": "https://a,b",
        "ATLAS_TOKEN": "s3cret",
        "ADVERTISE_HOST": "10.0.0.7",
        "ZONE": "a",
        "SIDECAR_PORT": "4100",
        "SIDECAR_SOCKET": "no",
        "SIDECAR_ADMIN_PORT": "0",
        "SIDECAR_TOKENS": "/etc/tokens",
        "SIDECAR_KEY_HEADERS": "X-One, X-Two",
        "SIDECAR_RELOAD_SECONDS": "1.5",
    }
    found = settings_from(environ, zone="b", port=4200)
    assert (found.realm, found.state, found.host, found.zone, found.port) == (
        "staging",
        Path("/var/x"),
        "10.0.0.7",
        "b",
        4200,
    )
    assert (found.socket, found.admin_port, found.tokens_file) == (False, 0, Path("/etc/tokens"))
    assert (found.key_headers, found.reload_seconds, found.atlas_token) == (("X-One", "X-Two"), 1.5, "s3cret")
    assert "s3cret" not in repr(found)


def test_haproxy_is_found_where_a_user_does_not_look(tmp_path: Path) -> None:
    """Debian installs it into /usr/sbin, which is on the PATH of root alone. What is on the PATH comes first."""
    program = tmp_path / "haproxy"
    assert haproxy_program({"PATH": "/nowhere"}, ["/nowhere", str(tmp_path)]) == "haproxy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert haproxy_program({"PATH": "/nowhere"}, ["/nowhere", str(tmp_path)]) == str(program)
    assert haproxy_program({"PATH": str(tmp_path)}, ["/nowhere"]) == "haproxy"


def test_an_address_for_the_sidecar_alone_comes_first() -> None:
    """In a pod ADVERTISE_HOST may be that of the service."""
    environ = {"SIDECAR_DIR": "/run/s", "ADVERTISE_HOST": "svc", "SIDECAR_HOST": "10.0.0.7"}
    assert settings_from(environ).host == "10.0.0.7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIDECAR_PORT", "70000"),
        ("SIDECAR_PORT", "-1"),
        ("SIDECAR_LOOPBACK", "maybe"),
        ("ADVERTISE_HOST", "a b"),
        ("REALM", "No Realm"),
        ("SIDECAR_SALT", "a b"),
        ("SIDECAR_KEY_HEADERS", "X One"),
        ("SIDECAR_TTL_SECONDS", "nan"),
        ("SIDECAR_TTL_SECONDS", "0"),
        ("SIDECAR_SALT", 'x" http-request deny'),
    ],
)
def test_what_cannot_be_is_told_by_its_name(name: str, value: str) -> None:
    """The variable is in the message, so that it can be found."""
    with pytest.raises(ConfigurationError) as raised:
        settings_from({"SIDECAR_DIR": "/run/s", name: value})
    (mistake,) = raised.value.mistakes
    assert name in mistake or name == "REALM"


def test_what_each_allows_and_all_together_do_not() -> None:
    """Two things on one port, no way to call, a directory too long for its sockets, no map outside of the local realm."""
    with pytest.raises(ConfigurationError) as raised:
        settings_from({"SIDECAR_DIR": "/" + "x" * LONGEST_DIRECTORY, "SIDECAR_ADMIN_PORT": "4000", "REALM": "staging"})
    assert len(raised.value.mistakes) == 3
    assert "too long by 1 bytes" in raised.value.message
    with pytest.raises(ConfigurationError, match="nobody can call anything"):
        settings_from({"SIDECAR_DIR": "/run/s", "SIDECAR_LOOPBACK": "off", "SIDECAR_SOCKET": "off"})


def test_a_slip_of_the_pen_is_noticed_and_others_names_are_not() -> None:
    """SIDECAR_PROT is meant for us; SIDECAR_URL is a service's."""
    settings_from(
        {"SIDECAR_DIR": "/run/s", "SIDECAR_URL": "http://x", "SIDECAR_TOKEN": "x", "SIDECAR_HOST": "10.0.0.7"}
    )
    with pytest.raises(ConfigurationError, match="did you mean SIDECAR_PORT"):
        settings_from({"SIDECAR_DIR": "/run/s", "SIDECAR_PROT": "1"})
