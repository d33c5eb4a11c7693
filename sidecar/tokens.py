"""The file that says who may call: lines of a caller and the SHA-256 of its token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from sidecar.fields import is_digest, is_service

_log = logging.getLogger("sidecar")


class TokensFile:
    """Read anew when it changes; what was known goes on while it cannot be read, and a bad line harms no other. Without a path
    nobody needs a token."""

    def __init__(self, path: Path | None) -> None:
        self.trouble = ""
        """What is not right about the file, for the operator; logged once."""
        self._path = path
        self._changed: tuple[int, ...] | None = None
        self._known: Mapping[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """The callers by the digest of their token; the same object while the file is the same."""
        if self._path is None:
            return self._known
        try:
            found = self._path.stat()
            changed = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
            if changed != self._changed:
                text = self._path.read_text(errors="replace")
                self._known, self._changed = parse_tokens(text), changed
                if bad := bad_lines(text):
                    self._tell(f"Line {bad[0]} of {self._path} is no token, and counts for nothing.")
                else:
                    self._tell("" if self._known else f"There is no token in {self._path}, so that nobody may call.")
        except OSError as error:
            self._tell(f"The tokens in {self._path} cannot be read ({error.strerror}): those known go on.")
        return self._known

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.error("%s", trouble)
        self.trouble = trouble


def parse_tokens(text: str) -> dict[str, str]:
    """The callers by digest; empty lines, comments and lines of another shape count for nothing."""
    return {words[1].lower(): words[0] for _, words in _lines(text) if _is_token(words)}


def bad_lines(text: str) -> list[int]:
    """The numbers of the lines that are no token and no comment, counted from 1."""
    return [number for number, words in _lines(text) if not _is_token(words)]


def _lines(text: str) -> list[tuple[int, list[str]]]:
    numbered = enumerate(text.splitlines(), 1)
    return [(number, line.split()) for number, line in numbered if line.strip()[:1] not in ("", "#")]


def _is_token(words: list[str]) -> bool:
    return len(words) == 2 and is_service(words[0]) and is_digest(words[1].lower())
