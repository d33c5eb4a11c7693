"""Where the toolkit itself came from, and how a generated service gets the same one anywhere.

From a package index: its version is pinned. From a checkout: a wheel is built of it, kept by the hash of its sources, and
carried in the repository's `vendor/`. From anywhere else (a file, a version control system): the wheel is put together again
from the installed files.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from skeleton.errors import InstallFailed
from skeleton.partial import Partial

DISTRIBUTION = "smartservice"
_EXTRAS = {"db": ("migrate", "postgres")}
_BESIDE_PACKAGES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Origin:
    """How the running toolkit was installed: its version, and the checkout it runs from, if it does."""

    version: str
    checkout: Path | None = None
    installed: metadata.Distribution | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether an index has it, so that naming the version is enough."""
        return self.checkout is None and self.installed is None

    def describe(self) -> str:
        if self.is_pinned:
            return f"{DISTRIBUTION} {self.version}"
        return f"{DISTRIBUTION} {self.version} as a wheel in vendor/"


def find_origin(distribution: metadata.Distribution | None = None, here: Path = Path(__file__)) -> Origin:
    """Look at what pip or uv noted when the toolkit was installed (PEP 610)."""
    if distribution is None:
        try:
            distribution = metadata.distribution(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            return _checkout(here.resolve().parent.parent)
    noted = distribution.read_text("direct_url.json")
    if not noted:
        base = Path(str(distribution.locate_file("")))
        # `python -m skeleton.cli` in a checkout finds the egg-info there before any installation.
        return _checkout(base) if (base / "setup.cfg").is_file() else Origin(distribution.version)
    direct = json.loads(noted)
    if direct.get("dir_info", {}).get("editable"):
        return _checkout(Path(unquote(urlsplit(direct["url"]).path)))
    return Origin(distribution.version, installed=distribution)


def _checkout(root: Path) -> Origin:
    settings = configparser.RawConfigParser()
    settings.read(root / "setup.cfg")
    try:
        version = settings.get("metadata", "version")
    except configparser.Error:
        raise InstallFailed(
            f"The toolkit runs from {root}, which holds no setup.cfg to build a wheel from; install {DISTRIBUTION} again."
        ) from None
    return Origin(f"{version}+src.{hash_of(root)[:12]}", checkout=root)


def hash_of(root: Path) -> str:
    """The hash of everything that goes into a wheel of this checkout."""
    digest = hashlib.sha256()
    for path in sources(root):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # Somebody works in the checkout right now.
            continue
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def sources(root: Path) -> list[Path]:
    """The files of a checkout that a wheel is built from, in a fixed order."""
    settings = configparser.RawConfigParser()
    settings.read(root / "setup.cfg")
    patterns = settings.get("options.packages.find", "include", fallback="smart*\nhealthcheck*\nskeleton*").split()
    found = [root / name for name in _BESIDE_PACKAGES if (root / name).is_file()]
    for folder in sorted(root.iterdir()):
        if (folder / "__init__.py").is_file() and any(fnmatch(folder.name, pattern) for pattern in patterns):
            found += [
                path
                for path in sorted(folder.rglob("*"))
                if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
            ]
    return found


def requirement(origin: Origin, components: Sequence[str]) -> str:
    """The line that asks for exactly this toolkit, with what the components need."""
    extras = sorted(extra for component in components for extra in _EXTRAS.get(component, ()))
    return f"{DISTRIBUTION}{'[' + ','.join(extras) + ']' if extras else ''}=={origin.version}"


def wheel_of(origin: Origin, cache: Path, build: Callable[[Path, Path], None]) -> Path | None:
    """The wheel to carry in vendor/, out of the cache when it is there; None when the version can be pinned.

    `build(checkout, folder)` puts one wheel into the folder.
    """
    if origin.is_pinned:
        return None
    key = origin.version if origin.checkout else f"{origin.version}-{_hash_of_installed(origin)[:12]}"
    shelf = cache / "wheels" / key
    if not (ready := _only_wheel(shelf)):
        shelf.parent.mkdir(parents=True, exist_ok=True)
        with Partial(shelf.parent, key) as partial:
            if origin.checkout:
                build(_copy_of(origin, partial.path / "source"), partial.tree)
            else:
                repack(origin, partial.tree)
            if not _only_wheel(partial.tree):
                raise InstallFailed("Building a wheel of the toolkit gave no wheel; look at the output of the build.")
            try:
                partial.put(shelf)
            except FileExistsError:
                pass  # Another run was faster, with the same content.
        ready = _only_wheel(shelf)
    return ready


def _only_wheel(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _copy_of(origin: Origin, into: Path) -> Path:
    """The sources alone, their version marked as this very state of them."""
    assert origin.checkout is not None
    for path in sources(origin.checkout):
        target = into / path.relative_to(origin.checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, target)
        except FileNotFoundError:
            continue
    (into / "README.md").touch()
    local = origin.version.partition("+")[2]
    with (into / "setup.cfg").open("a") as settings:
        settings.write(f"\n[egg_info]\ntag_build = +{local}\n")
    return into


def _installed_files(origin: Origin) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that came out of the wheel, without what the installer added."""
    assert origin.installed is not None
    added = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
    for path in sorted(origin.installed.files or (), key=str):
        name = path.as_posix()
        if (
            name.startswith("..")
            or path.suffix == ".pyc"
            or (path.parent.suffix == ".dist-info" and path.name in added)
        ):
            continue
        yield name, Path(str(path.locate())).read_bytes()


def _hash_of_installed(origin: Origin) -> str:
    digest = hashlib.sha256()
    for name, content in _installed_files(origin):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def repack(origin: Origin, folder: Path) -> Path:
    """A wheel of the installed files (the format is PyPA's binary distribution format, 1.0)."""
    target = folder / f"{DISTRIBUTION}-{origin.version}-py3-none-any.whl"
    record = []
    described = ""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in _installed_files(origin):
            wheel.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
            if name.endswith(".dist-info/METADATA"):
                described = name.rpartition("/")[0]
        record.append(f"{described}/RECORD,,")
        wheel.writestr(zipfile.ZipInfo(f"{described}/RECORD", _ZIP_EPOCH), "\n".join(record) + "\n")
    return target
