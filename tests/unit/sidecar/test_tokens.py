"""Who may call, from a file."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.tokens import TokensFile


def test_lines_of_a_caller_and_a_digest_count(tmp_path: Path) -> None:
    """Comments, empty lines and halves are nobody; digests are told in lower case."""
    path = tmp_path / "tokens"
    path.write_text("# who may call\n\nshop ABCD\nbroken\n")
    assert TokensFile(path).read() == {"abcd": "shop"}


def test_without_a_file_nobody_needs_a_token() -> None:
    """No path is no token, and costs nothing."""
    assert TokensFile(None).read() == {}


def test_a_file_is_read_when_it_changes_and_only_then(tmp_path: Path) -> None:
    """The same object while it is the same file; what was known goes on while it cannot be read."""
    path = tmp_path / "tokens"
    path.write_text("shop aa\n")
    tokens = TokensFile(path)
    first = tokens.read()
    assert tokens.read() is first
    path.write_text("shop bb\n")
    os.utime(path, (1, 1))
    assert tokens.read() == {"bb": "shop"}
    path.unlink()
    assert tokens.read() == {"bb": "shop"}
