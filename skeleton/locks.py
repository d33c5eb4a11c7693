"""The text of a lock: pins and hashes, in the form that pip and uv read. Pure functions."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

_BLOCK = re.compile(r"^([a-z0-9][^\n]*?) \\\n((?:    --hash=[^\n]*\n)+)", re.M)
_HASH = re.compile(r"--hash=(\S+)")


def of_pip_report(report: Mapping[str, object]) -> tuple[str, str]:
    """Constraints and a hashed lock out of pip's installation report (format 1)."""
    pins, lines = [], []
    installs = report["install"]
    assert isinstance(installs, list)
    for item in sorted(installs, key=lambda item: str(item["metadata"]["name"]).lower()):
        archive = item["download_info"]["archive_info"]
        digest = archive.get("hashes", {}).get("sha256") or archive["hash"].partition("=")[2]
        pin = f"{item['metadata']['name'].lower().replace('_', '-')}=={item['metadata']['version']}"
        pins.append(pin)
        lines.append(f"{pin} \\\n    --hash=sha256:{digest}")
    return "\n".join(pins) + "\n", "\n".join(lines) + "\n"


def head(name: str, *, universal: bool) -> str:
    scope = (
        "" if universal else f"# Hashes for Python {sys.version_info[0]}.{sys.version_info[1]} on this platform only.\n"
    )
    return f"# Every version and every file that {name.replace('.txt', '.in')} resolves to. `make lock` writes it anew.\n{scope}"


def pinned(lock: str) -> set[str]:
    """The `name==version` of each line of a lock."""
    return {line.split()[0] for line in lock.splitlines() if "==" in line and line[0].isalnum()}


def with_more_hashes(lock: str, other: str) -> str:
    """The lock, each of its pins with the hashes that another lock has for the very same version too."""
    known = {block[1].split()[0]: set(_HASH.findall(block[2])) for block in _BLOCK.finditer(other)}

    def widen(block: re.Match[str]) -> str:
        hashes = sorted(set(_HASH.findall(block[2])) | known.get(block[1].split()[0], set()))
        return " \\\n    ".join([block[1], *(f"--hash={one}" for one in hashes)]) + "\n"

    return _BLOCK.sub(widen, lock)
