"""`atlas set`, `unset`, `get`."""

from __future__ import annotations

from tests.live.atlas_cli.runs import Runs


def test_set_says_how_the_value_was_understood(filled: Runs) -> None:
    """A number is a number, and the answer says so; what was there before stands beside it."""
    assert "identity PAGE_SIZE = 50 (a number) (revision 3)" in filled.ok("set", "identity", "PAGE_SIZE", "50")
    assert 'PAGE_SIZE = "fifty" (text), was 50' in filled.ok("set", "identity", "PAGE_SIZE", "fifty")
    assert 'PAGE_SIZE = "50" (text)' in filled.ok("set", "identity", "PAGE_SIZE", "50", "--text")
    assert filled.map.world().overrides["identity/PAGE_SIZE"].value == "50"


def test_a_negative_number_is_no_option(filled: Runs) -> None:
    """`set identity OFFSET -5` does what it says; an unknown option is still refused."""
    filled.ok("set", "identity", "OFFSET", "-5")
    assert filled.map.world().overrides["identity/OFFSET"].value == -5
    assert filled("set", "identity", "OFFSET", "--fast").exit_code == 2
    assert filled("set", "identity", "OFFSET", "-5", "--fast").exit_code == 2


def test_a_change_has_an_author_and_a_reason(filled: Runs) -> None:
    """ATLAS_AUTHOR and --why are kept in the history."""
    filled.ok("set", "*", "LEVEL", "debug", "--why", "to see more", ATLAS_AUTHOR="bert")
    change = filled.map.history(limit=1)[0]
    assert (change.author, change.why) == ("bert", "to see more")


def test_a_secret_is_never_on_the_command_line(filled: Runs) -> None:
    """Given as an argument it is refused and not kept; from stdin it is kept, and nothing shows it."""
    refused = filled("set", "identity", "SMTP_PASSWORD", "hunter2", "--secret", input="another")
    assert refused.exit_code == 2
    assert filled.revision == 2
    assert "hunter2" not in refused.output
    told = filled("set", "identity", "SMTP_PASSWORD", "--secret", input="hunter2\n")
    assert told.exit_code == 0
    shown = [
        told.output,
        filled.ok("get"),
        filled.ok("show", "identity"),
        filled.ok("history"),
        filled.ok("get", "--json"),
    ]
    assert not any("hunter2" in text for text in shown)
    assert b"hunter2" not in (filled.folder / "realm.db").read_bytes()


def test_what_stdin_holds_is_the_secret(filled: Runs) -> None:
    """All of stdin but its last line break, spaces included; its service can open it."""
    import atlas

    filled.ok("set", "identity", "KEY", "--secret", input=" two\nlines \r\n")
    with atlas.open(filled.url, service="identity", environ=filled.environ) as directory:
        assert directory.world().overrides["identity/KEY"].value == " two\nlines "


def test_an_empty_stdin_is_no_secret(filled: Runs) -> None:
    """A pipe that broke does not wipe a secret."""
    assert filled("set", "identity", "KEY", "--secret", input="").exit_code == 2
    assert filled.revision == 2


def test_a_secret_is_not_overwritten_in_the_open(filled: Runs) -> None:
    """Without --secret the new value would have been on a command line: refused."""
    filled.ok("set", "identity", "KEY", "--secret", input="hunter2")
    result = filled("set", "identity", "KEY", "hunter3")
    assert result.exit_code == 4
    assert "hunter3" not in result.output


def test_get_prints_for_a_script(filled: Runs) -> None:
    """Text as it is, anything else as JSON, the shared one where the service has none; a secret is refused."""
    filled.ok("set", "*", "NAME", "two words")
    filled.ok("set", "identity", "LIMITS", "[1, 2]")
    filled.ok("set", "identity", "KEY", "--secret", input="hunter2")
    assert filled.ok("get", "identity", "NAME") == "two words\n"
    assert filled.ok("get", "identity", "LIMITS") == "[1, 2]\n"
    assert filled("get", "identity", "KEY").exit_code == 6
    assert filled("get", "identity", "NAMES").exit_code == 3
    assert filled.json("get", "identity", "LIMITS")["value"] == [1, 2]


def test_unset_brings_the_default_back(filled: Runs) -> None:
    """The override is gone; a second time there is none to take away, and those that are get named."""
    filled.ok("set", "identity", "PAGE_SIZE", "50")
    filled.ok("set", "identity", "LEVEL", "debug")
    assert "identity PAGE_SIZE unset, was 50" in filled.ok("unset", "identity", "PAGE_SIZE")
    result = filled("unset", "identity", "PAGE_SIZE")
    assert result.exit_code == 3
    assert "LEVEL" in result.stderr


def test_a_dry_run_takes_secrets_beside_those_that_it_cannot_open(filled: Runs) -> None:
    """The copy has no key of the real map, and needs none for what is new."""
    filled.ok("set", "identity", "API_KEY", "--secret", input="one")
    for name in ("API_KEY", "OTHER_KEY"):
        assert filled("set", "identity", name, "--secret", "--dry-run", input="two").exit_code == 0


def test_a_value_that_is_nested_too_deeply_is_refused(filled: Runs) -> None:
    """As wrong use, not as a mistake of the command."""
    result = filled("set", "identity", "DEEP", "[" * 100_000)
    assert (result.exit_code, "nested too deeply" in result.stderr) == (2, True)


def test_a_dry_run_writes_nothing_and_refuses_the_same(filled: Runs) -> None:
    """It says what would be, ends with the same codes, and leaves the map alone."""
    before = filled.revision
    assert "Would be done: identity PAGE_SIZE = 50 (a number)" in filled.ok(
        "set", "identity", "PAGE_SIZE", "50", "--dry-run"
    )
    assert filled("set", "identity", "page_size", "50", "--dry-run").exit_code == 2
    assert filled("unset", "identity", "PAGE_SIZE", "--dry-run").exit_code == 3
    assert filled.json("set", "identity", "PAGE_SIZE", "50", "--dry-run")["dry_run"] is True
    assert filled.revision == before
    assert not filled.map.world().overrides


def test_the_other_way_of_writing_it(filled: Runs) -> None:
    """KEY=VALUE is understood too."""
    filled.ok("set", "identity", "URL=https://a/?b=c")
    assert filled.map.world().overrides["identity/URL"].value == "https://a/?b=c"
