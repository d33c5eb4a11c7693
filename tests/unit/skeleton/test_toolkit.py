"""A generated service gets the very toolkit that generated it, anywhere."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from skeleton import toolkit
from skeleton.errors import InstallFailed
from skeleton.toolkit import Origin


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout: two packages that go into a wheel, and a folder that does not."""
    root = tmp_path / "checkout"
    (root / "smartservice" / "__pycache__").mkdir(parents=True)
    (root / "tests").mkdir()
    include = "[options.packages.find]\ninclude =\n    smart*\n"
    (root / "setup.cfg").write_text(f"[metadata]\nname = smartservice\nversion = 1.2\n{include}")
    (root / "smartservice" / "__init__.py").write_text("x = 1\n")
    (root / "smartservice" / "__pycache__" / "x.pyc").write_text("compiled")
    (root / "tests" / "__init__.py").touch()
    return root


def _installed(folder: Path, direct_url: Mapping[str, object] | None) -> metadata.Distribution:
    info = folder / "smartservice-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "smartservice").mkdir()
    (folder / "smartservice" / "__init__.py").write_text("x = 1\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smartservice\nVersion: 1.2\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    names = ["smartservice/__init__.py", "../../bin/generate-service", f"{info.name}/METADATA", f"{info.name}/WHEEL"]
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))
        names.append(f"{info.name}/direct_url.json")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, f"{info.name}/RECORD"]))
    return metadata.PathDistribution(info)


def test_from_an_index_the_version_is_pinned(tmp_path: Path) -> None:
    """No note of a direct origin means that an index has this version; no wheel is carried."""
    origin = toolkit.find_origin(_installed(tmp_path, None))
    assert origin == Origin("1.2")
    assert toolkit.requirement(origin, ("db",)) == "smartservice[migrate,postgres]==1.2"
    assert toolkit.wheel_of(origin, tmp_path, lambda *_: None) is None


def test_from_a_checkout_the_version_names_the_state_of_the_sources(tmp_path: Path, checkout: Path) -> None:
    """An editable installation is known by the hash of what a wheel would hold."""
    noted = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    origin = toolkit.find_origin(_installed(tmp_path / "site", noted))
    assert origin.checkout == checkout
    assert origin.version == f"1.2+src.{toolkit.hash_of(checkout)[:12]}"
    assert toolkit.requirement(origin, ()) == f"smartservice=={origin.version}"


def test_beside_its_own_sources_it_is_a_checkout(tmp_path: Path, checkout: Path) -> None:
    """Started in a checkout, the metadata that lies there is not taken for an installation from an index."""
    info = _installed(tmp_path / "site", None)
    (tmp_path / "site" / "setup.cfg").write_text((checkout / "setup.cfg").read_text())
    assert toolkit.find_origin(info).checkout == tmp_path / "site"


def test_only_what_goes_into_the_wheel_counts(checkout: Path) -> None:
    """Tests and compiled files do not change the hash; a package's file does."""
    before = toolkit.hash_of(checkout)
    (checkout / "tests" / "test_x.py").write_text("changed")
    (checkout / "smartservice" / "__pycache__" / "x.pyc").write_text("changed")
    assert toolkit.hash_of(checkout) == before
    (checkout / "smartservice" / "__init__.py").write_text("x = 2\n")
    assert toolkit.hash_of(checkout) != before


def test_a_wheel_is_built_once_for_one_state(tmp_path: Path, checkout: Path) -> None:
    """The second service finds the wheel in the cache; the build sees the marked version, and never the checkout."""
    built: list[Path] = []

    def build(source: Path, into: Path) -> None:
        built.append(source)
        assert "tag_build = +src." in (source / "setup.cfg").read_text()
        assert not (source / "tests").exists()
        (into / "smartservice.whl").write_text("wheel")

    origin = toolkit._checkout(checkout)
    first = toolkit.wheel_of(origin, tmp_path / "cache", build)
    second = toolkit.wheel_of(origin, tmp_path / "cache", build)
    assert first == second
    assert first is not None
    assert first.read_text() == "wheel"
    assert len(built) == 1
    assert checkout not in built[0].parents


def test_a_build_that_gives_nothing_is_told(tmp_path: Path, checkout: Path) -> None:
    """A build without a wheel ends in one sentence, and nothing is kept."""
    with pytest.raises(InstallFailed, match="gave no wheel"):
        toolkit.wheel_of(toolkit._checkout(checkout), tmp_path / "cache", lambda *_: None)
    assert list((tmp_path / "cache" / "wheels").iterdir()) == []


def test_a_checkout_that_is_gone_is_told(tmp_path: Path) -> None:
    """An editable installation whose folder was removed says what to do."""
    noted = {"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}}
    with pytest.raises(InstallFailed, match=r"no setup\.cfg"):
        toolkit.find_origin(_installed(tmp_path / "site", noted))


def test_from_anywhere_else_the_wheel_is_put_together_again(tmp_path: Path) -> None:
    """The files of the installation are the wheel: without scripts, without notes of the installer, with a record."""
    noted = {"url": "file:///elsewhere/smartservice-1.2-py3-none-any.whl", "archive_info": {}}
    origin = toolkit.find_origin(_installed(tmp_path / "site", noted))
    wheel = toolkit.wheel_of(origin, tmp_path / "cache", lambda *_: None)
    assert wheel is not None
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        record = opened.read("smartservice-1.2.dist-info/RECORD").decode()
    info = "smartservice-1.2.dist-info"
    assert names == {"smartservice/__init__.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"}
    assert all(name in record for name in names)
