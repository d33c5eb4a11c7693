"""Who may call, from a file."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.tokens import TokensFile

AA, BB = "aa" * 32, "bb" * 32


def test_lines_of_a_caller_and_a_digest_count(tmp_path: Path) -> None:
    """Comments, empty lines and halves are nobody; digests are told in lower case."""
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\nshop {AA.upper()}\nbroken\n")
    assert TokensFile(path).read() == {AA: "shop"}


def test_a_bad_line_harms_no_other_and_is_told(tmp_path: Path) -> None:
    """A name that is none, a digest that is none, bytes that are no text: the others count, and the operator hears which line."""
    path = tmp_path / "tokens"
    path.write_bytes(f"shop {AA}\nNo_Name {BB}\nbilling abcd\n".encode() + b"\xff\xfe\n")
    tokens = TokensFile(path)
    assert tokens.read() == {AA: "shop"}
    assert tokens.trouble.startswith(f"Line 2 of {path} ")
    path.write_text(f"shop {BB}\n")
    assert tokens.read() == {BB: "shop"}
    assert tokens.trouble == ""
    path.write_text("# all of them are gone\n")
    assert tokens.read() == {}
    assert "nobody may call" in tokens.trouble


def test_without_a_file_nobody_needs_a_token() -> None:
    """No path is no token, and costs nothing."""
    assert TokensFile(None).read() == {}


def test_a_file_is_read_when_it_changes_and_only_then(tmp_path: Path) -> None:
    """The same object while it is the same file; what was known goes on while it cannot be read."""
    path = tmp_path / "tokens"
    path.write_text(f"shop {AA}\n")
    tokens = TokensFile(path)
    first = tokens.read()
    assert tokens.read() is first
    path.write_text(f"shop {BB}\n")
    os.utime(path, (1, 1))
    assert tokens.read() == {BB: "shop"}
    path.write_text(f"shop {BB}\nbilling {AA}\n")
    os.utime(path, (1, 1))  # as when both were written within one tick of the clock
    assert tokens.read() == {BB: "shop", AA: "billing"}
    path.unlink()
    assert tokens.read() == {BB: "shop", AA: "billing"}
    assert "those known go on" in tokens.trouble
