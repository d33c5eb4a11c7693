"""The test servers themselves: what every other live test stands on."""

from __future__ import annotations

from pathlib import Path

import psycopg
import redis

from tests import install_servers
from tests.servers import PostgresServer


def test_postgres_url_is_an_empty_database_of_its_own(postgres: PostgresServer, postgres_url: str) -> None:
    """Each test has a database to itself, empty, and may make tables in it."""
    other = postgres.create_database()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE thing (id int)")
    with psycopg.connect(other) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    postgres.drop_database(other)

    assert row == (0,)


def test_redis_url_is_empty(redis_url: str) -> None:
    """Each test begins with an empty Redis."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_redis_url_is_empty_again(redis_url: str) -> None:
    """Nothing that an earlier test left behind is there."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_the_policy_that_was_there_comes_back(tmp_path: Path) -> None:
    """Installing restores the machine's own policy-rc.d, even when an earlier installation was killed."""
    policy, kept = tmp_path / "policy-rc.d", tmp_path / "kept"
    policy.write_text("#!/bin/sh\nexit 104\n")

    with install_servers.nothing_starts(policy, kept):
        assert policy.read_text().endswith("exit 101\n")
    assert policy.read_text().endswith("exit 104\n")

    policy.rename(kept)
    policy.write_text("#!/bin/sh\nexit 101\n")  # what a killed run leaves
    with install_servers.nothing_starts(policy, kept):
        pass
    assert policy.read_text().endswith("exit 104\n")
    assert not kept.exists()


def test_no_policy_stays_no_policy(tmp_path: Path) -> None:
    """A machine without policy-rc.d has none afterwards."""
    with install_servers.nothing_starts(tmp_path / "policy-rc.d", tmp_path / "kept"):
        assert (tmp_path / "policy-rc.d").stat().st_mode & 0o777 == 0o755

    assert list(tmp_path.iterdir()) == []


def test_only_consul_may_be_missing_everywhere() -> None:
    """Every other program is asked for, with how to get it, and its absence is an error where CI is set."""
    programs = install_servers.PROGRAMS.values()
    assert [program.name for program in programs if program.optional] == ["consul"]
    assert all(program.debian_package or program.npm_package for program in programs if not program.optional)
    assert "consul" not in [program.name for program in install_servers.missing()]
