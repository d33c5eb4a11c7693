"""A split: which callers of a service reach which version. Everybody computes the same bucket from the same key.

A bucket is `crc32("salt:key") mod 10000` (CRC-32 as in IEEE 802.3 and zlib). It is computed once, where a request enters the
realm, and passed on in the header `Smart-Bucket`, so that a caller stays on the same side at every service. HAProxy computes
the same with its converters `crc32` and `mod`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from smartrealm.buckets import BUCKETS as BUCKETS, bucket_of as bucket_of
from smartrealm.errors import ValidationFailed

MOST_SHARES = 3
_SHARE = re.compile(r"([^\s,=%]{1,100})=(\d{1,3}(?:\.\d{1,2})?)%")


@dataclass(frozen=True, slots=True)
class Share:
    """One version (or a pattern: `1.4.*`) and the upper limit of its buckets, which begin where the share before it ends."""

    version: str
    limit: int
    """1 to 10,000; hundredths of a percent, cumulated."""

    def fits(self, version: str) -> bool:
        """Whether instances of this version belong to this share."""
        return fnmatch.fnmatchcase(version, self.version)


def parse_split(text: str) -> tuple[Share, ...]:
    """The shares of `1.4=5%` or `1.4=5%,1.5.*=0.25%`, empty for an empty text. Raises ValidationFailed, which says what is wrong."""
    shares: list[Share] = []
    limit = 0
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = _SHARE.fullmatch(part)
        if found is None:
            raise ValidationFailed(
                f"{part!r} is no share of a split: write VERSION=PERCENT%, as in 1.4=5% or 1.4.*=0.25%."
            )
        hundredths = round(float(found[2]) * 100)
        if hundredths < 1:
            raise ValidationFailed(f"{part!r}: the least share is 0.01%; to end a split, name none.")
        if any(share.version == found[1] for share in shares):
            raise ValidationFailed(f"{found[1]} is named twice in the split.")
        limit += hundredths
        shares.append(Share(found[1], limit))
    if limit > BUCKETS:
        raise ValidationFailed(f"The shares of the split are {limit / 100:g}% in all: at most 100% can be given.")
    if len(shares) > MOST_SHARES:
        raise ValidationFailed(f"A split has at most {MOST_SHARES} shares; the rest goes to the other versions.")
    return tuple(shares)


def share_of(shares: Iterable[Share], bucket: int) -> Share | None:
    """The share that a bucket belongs to; None: the rest, which goes to the versions of no share."""
    return next((share for share in shares if bucket < share.limit), None)


def share_for(shares: Iterable[Share], version: str) -> Share | None:
    """The share that instances of a version belong to: the first one that fits; None: the rest."""
    return next((share for share in shares if share.fits(version)), None)
