"""uv sees what pip was told, and nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from skeleton.indexes import config_files, pip_settings, uses_no_index, uv_variables, without_credentials


def test_files_and_variables_are_read_in_pips_order(tmp_path: Path) -> None:
    """A later file wins over an earlier one, and a variable over every file."""
    machine, user = tmp_path / "machine", tmp_path / "user"
    machine.write_text("[global]\nindex-url = https://machine/simple\ntimeout = 7\n[list]\nformat = json\n")
    user.write_text("[global]\nindex_url = https://user/simple\n[install]\ncert = /user.pem\n")
    found = pip_settings({"PIP_TIMEOUT": "9"}, [machine, user])
    assert found == {"index-url": "https://user/simple", "timeout": "9", "cert": "/user.pem"}


def test_an_unreadable_file_is_passed_over(tmp_path: Path) -> None:
    """A broken configuration of pip is pip's matter; the generator goes on."""
    (tmp_path / "broken").write_text("index-url without a section")
    assert pip_settings({}, [tmp_path / "broken", tmp_path / "absent"]) == {}


def test_pip_config_file_is_looked_at_last(tmp_path: Path) -> None:
    """PIP_CONFIG_FILE names the strongest file, and /dev/null switches all files off."""
    assert config_files({"HOME": "/home/x", "PIP_CONFIG_FILE": "/own"})[-1] == Path("/own")
    assert Path("/home/x/.config/pip/pip.conf") in config_files({"HOME": "/home/x"})
    assert pip_settings({"PIP_CONFIG_FILE": "/dev/null"}) == {"config-file": "/dev/null"}


def test_everything_that_uv_can_take_is_handed_over(tmp_path: Path) -> None:
    """Indexes, places, certificates, hosts and proxy become uv's variables, with pip's way of choosing."""
    settings = {
        "index-url": "https://user:word@one/simple",
        "extra-index-url": "https://two/simple\nhttps://three/simple",
        "find-links": f"{tmp_path} {tmp_path}/absent https://four/links",
        "cert": "/ca.pem",
        "trusted-host": "one\ntwo",
        "default-timeout": "60",
        "proxy": "http://proxy:3128",
        "keyring-provider": "import",
    }
    assert uv_variables({}, settings) == {
        "UV_DEFAULT_INDEX": "https://user:word@one/simple",
        "UV_INDEX": "https://two/simple https://three/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path},https://four/links",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INSECURE_HOST": "one two",
        "UV_HTTP_TIMEOUT": "60",
        "ALL_PROXY": "http://proxy:3128",
        "UV_KEYRING_PROVIDER": "disabled",
    }


def test_the_users_own_variables_for_uv_win() -> None:
    """Who has configured uv has said what uv shall do."""
    settings = {"index-url": "https://pip/simple", "extra-index-url": "https://more/simple", "cert": "/pip.pem"}
    environ = {
        "UV_DEFAULT_INDEX": "https://uv/simple",
        "UV_EXTRA_INDEX_URL": "https://uv2/simple",
        "SSL_CERT_FILE": "/uv",
    }
    assert uv_variables(environ, settings) == {}


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("no", False), ("", False)])
def test_no_index_is_understood(value: str, expected: bool) -> None:
    """pip's spellings of yes."""
    assert uses_no_index({"no-index": value}) is expected


def test_credentials_of_an_index_are_never_shown() -> None:
    """The user part of a URL is masked wherever a tool repeats it."""
    said = "error: https://user:word@index.example/simple/ and http://token@other.example are down"
    assert without_credentials(said) == "error: https://***@index.example/simple/ and http://***@other.example are down"
