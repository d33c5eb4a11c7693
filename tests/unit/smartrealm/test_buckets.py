"""The bucket of a key."""

from __future__ import annotations

import zlib

import pytest

from smartrealm.buckets import BUCKETS, bucket_of


@pytest.mark.parametrize("key", ["alice", "", "user:7", "zo\u00eb", "a b"])
def test_a_bucket_is_the_checksum_of_salt_and_key(key: str) -> None:
    """`crc32("salt:key") mod 10000` of its UTF-8, which every language can compute; text and its bytes have one bucket."""
    assert bucket_of(key, "local") == zlib.crc32(f"local:{key}".encode()) % 10_000 == bucket_of(key.encode(), "local")


def test_another_salt_mixes_anew() -> None:
    """Who is in one split is not the same in the next one."""
    same = sum(bucket_of(f"user-{n}", "a") // 1000 == bucket_of(f"user-{n}", "b") // 1000 for n in range(1000))
    assert same < 200
    assert BUCKETS == 10_000
