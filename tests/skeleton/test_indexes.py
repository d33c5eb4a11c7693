"""Locks made by the real uv, through indexes that are folders."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

from skeleton.environment import Installer, Requirements, find_uv
from skeleton.processes import Processes

_METADATA = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
_WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def _index(folder: Path, build: str) -> tuple[str, str]:
    """A simple index with one wheel of demo 1.0 (PEP 503); its address, and the hash of the wheel."""
    (folder / "demo").mkdir(parents=True)
    wheel = folder / "demo" / f"demo-1.0-{build}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("demo.py", f"build = {build!r}\n")
        opened.writestr("demo-1.0.dist-info/METADATA", _METADATA)
        opened.writestr("demo-1.0.dist-info/WHEEL", _WHEEL)
        opened.writestr("demo-1.0.dist-info/RECORD", "")
    (folder / "demo" / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return folder.as_uri(), hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_lock_has_the_hashes_of_the_first_index_and_of_the_further_ones(tmp_path: Path) -> None:
    """Asked through pip's settings, an index beside the first one adds files to the lock and takes none away."""
    first, one = _index(tmp_path / "first", "1")
    further, two = _index(tmp_path / "further", "2")
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": first,
        "PIP_EXTRA_INDEX_URL": further,
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }
    processes = Processes()
    cache = tmp_path / "cache"
    cache.mkdir()
    try:
        locked = Installer(processes, environ, cache, find_uv(os.environ, Path(sys.executable))).lock(
            Requirements("demo\n", "demo\n")
        )
    finally:
        processes.end_all()
    for text in locked.values():
        assert one in text
        assert two in text
        assert "file:" not in text
