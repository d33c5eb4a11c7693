"""The bucket of a key: on which side of a split the one is for whom a call is made. Everybody computes the same one."""

from __future__ import annotations

import zlib

BUCKETS = 10_000


def bucket_of(key: str | bytes, salt: str) -> int:
    """The bucket of a key, 0 to 9999: `crc32("salt:key") mod 10000` (CRC-32 as in IEEE 802.3 and zlib).

    Text counts as UTF-8. HAProxy computes the same of the bytes of a header, with its converters `crc32` and `mod`.
    """
    return zlib.crc32(key.encode() if isinstance(key, str) else key, zlib.crc32(f"{salt}:".encode())) % BUCKETS
