"""The file that says who may call: lines of a caller and the SHA-256 of its token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

_log = logging.getLogger("sidecar")


class TokensFile:
    """Read anew when it changes; what was known goes on while it cannot be read. Without a path nobody needs a token."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._changed: tuple[int, int] | None = None
        self._known: Mapping[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """The callers by the digest of their token; the same object while the file is the same."""
        if self._path is None:
            return self._known
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._changed:
                self._known = parse_tokens(self._path.read_text())
                self._changed = (found.st_mtime_ns, found.st_ino)
        except OSError as error:
            _log.error("the tokens in %s cannot be read, those known go on: %s", self._path, error.strerror)
        return self._known


def parse_tokens(text: str) -> dict[str, str]:
    """The callers by digest; empty lines, comments and lines of another shape count for nothing."""
    lines = (line.split() for line in text.splitlines() if line.strip()[:1] not in ("", "#"))
    return {words[1].lower(): words[0] for words in lines if len(words) == 2}
