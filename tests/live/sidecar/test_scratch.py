"""Where HAProxy's file is tried before it is in place."""

from __future__ import annotations

from pathlib import Path

from sidecar.files import check_files
from sidecar.render import Files
from sidecar.settings import Settings


def test_a_file_is_tried_beside_the_one_in_place(tmp_path: Path) -> None:
    """In a container with a read-only root the folder of the sidecar is the only one that can be written; nothing stays there."""
    where = tmp_path / "where"
    program = tmp_path / "haproxy"
    program.write_text(f"#!/bin/sh\npwd > {where}\n")
    program.chmod(0o755)
    folder = tmp_path / "s"
    folder.mkdir()
    settings = Settings(directory=folder, state=tmp_path / "state", haproxy=str(program))
    assert check_files(Files("defaults\n", {}), settings) == ()
    assert Path(where.read_text().strip()).parent == folder
    assert list(folder.iterdir()) == []
