"""`atlas service` and `atlas token`."""

from __future__ import annotations

import hashlib
import time

from tests.live.atlas_cli.runs import Runs


def test_a_service_is_added_changed_and_removed(atlas: Runs) -> None:
    """Its facts are kept; a change leaves those alone that are not named."""
    atlas.ok("service", "add", "identity", "--owner", "accounts", "--port", "8010", "--timeout", "2.5")
    atlas.ok("service", "change", "identity", "--owner", "people", "--port", "none")
    service = atlas.map.world().services["identity"]
    assert (service.owner, service.port, service.timeout_seconds) == ("people", None, 2.5)
    atlas.ok("set", "identity", "A", "1")
    assert "identity removed with 1 override" in atlas.ok("service", "remove", "identity")
    assert not atlas.map.world().services


def test_a_free_port_is_found(atlas: Runs) -> None:
    """Two services never get the same one."""
    atlas.ok("service", "add", "identity", "--port", "free")
    assert "teams added with port 8001" in atlas.ok("service", "add", "teams", "--port", "free")


def test_adding_twice_is_a_conflict(filled: Runs) -> None:
    """Nothing is overwritten by a mistake; the way to change it is named."""
    result = filled("service", "add", "identity", "--owner", "me")
    assert result.exit_code == 4
    assert "atlas service change" in result.stderr
    assert filled.map.world().services["identity"].owner == "accounts"


def test_a_running_service_is_not_removed(filled: Runs) -> None:
    """Unless it is forced; the dry run says the same."""
    assert filled("service", "remove", "identity").exit_code == 4
    assert filled("service", "remove", "identity", "--dry-run").exit_code == 4
    filled.ok("service", "remove", "identity", "--force")


def test_a_name_that_cannot_be_is_explained(atlas: Runs) -> None:
    """The rule for names stands in the answer."""
    result = atlas("service", "add", "Identity_1")
    assert result.exit_code == 2
    assert "lower-case letters" in result.stderr
    assert atlas("service", "add", "identity", "--port", "http").exit_code == 2


def test_a_token_is_printed_once_and_kept_as_a_hash(filled: Runs) -> None:
    """Alone on stdout, so that a script can take it; nothing else ever shows it."""
    result = filled("token", "create", "operator", "anna", "--for", "90d")
    bearer = result.stdout.strip()
    kept = next(iter(filled.map.world().tokens.values()))
    assert result.exit_code == 0
    assert kept.digest == hashlib.sha256(bearer.encode()).hexdigest()
    assert kept.expires_at is not None
    assert abs(kept.expires_at - time.time() - 90 * 86400) < 10
    shown = (
        filled.ok("token", "ls") + filled.ok("token", "ls", "--json") + filled.ok("history", "--json") + result.stderr
    )
    assert bearer not in shown
    assert kept.digest not in shown


def test_a_token_for_a_service_needs_the_service(filled: Runs) -> None:
    """A typing mistake would make a token that opens nothing."""
    assert filled("token", "create", "service", "identiy").exit_code == 3
    filled.ok("token", "create", "service", "identity")


def test_a_token_is_revoked(filled: Runs) -> None:
    """By its id; an unknown id is not found."""
    document = filled.json("token", "create", "reader", "wall")
    assert filled("token", "revoke", "ffff").exit_code == 3
    assert "(reader for wall) revoked" in filled.ok("token", "revoke", document["id"])
    assert not filled.map.world().tokens


def test_a_dry_run_makes_no_token(filled: Runs) -> None:
    """And prints none that would be refused."""
    result = filled("token", "create", "reader", "wall", "--dry-run")
    assert result.exit_code == 0
    assert "." not in result.stdout.split("(")[0]
    assert not filled.map.world().tokens


def test_keys_are_made_and_secrets_sealed_anew(filled: Runs) -> None:
    """A new key is printed; with it in front every secret is sealed with it, and the old one is not needed any more."""
    import atlas

    old, new = filled.ok("keys", "new").strip(), filled.ok("keys", "new").strip()
    assert old != new
    filled.ok("set", "identity", "KEY", "--secret", input="hunter2", ATLAS_KEYS=old)
    for more in ([], ["--dry-run"]):
        assert filled("keys", "reseal", *more, ATLAS_KEYS=new).exit_code == 2
    before = filled.revision
    assert "1 secret" in filled.ok("keys", "reseal", "--dry-run", ATLAS_KEYS=f"{new},{old}")
    assert filled.revision == before
    assert "1 secret encrypted anew" in filled.ok("keys", "reseal", ATLAS_KEYS=f"{new},{old}")
    with atlas.open(filled.url, service="identity", environ={**filled.environ, "ATLAS_KEYS": new}) as directory:
        assert directory.world().overrides["identity/KEY"].value == "hunter2"
