"""Secrets are sealed before they reach a store: Fernet of the `cryptography` package (AES-128-CBC with HMAC-SHA256).

A sealed value is `{"sealed": "<token>"}`; inside are the name of the setting and its value, so that a sealed value which
somebody copies to another setting opens nowhere. Keys come from ATLAS_KEYS, separated by commas: the first one seals, all of
them open. A SQLite map without ATLAS_KEYS keeps a key beside itself, in `<file>.key` with mode 0600, made when first needed.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartrealm.errors import ConfigurationError, NotConfigured

MAKE_ONE = "make one with `python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`"


class Unreadable(Exception):
    """None of the keys opens this value."""


class SecretBox:
    """Seals and opens the values of secrets. Its repr and its errors show neither keys nor values."""

    def __init__(self, keys: str | None = None, *, file: Path | None = None) -> None:
        self._keys = keys
        self.file = file
        """Where the key is kept; None when keys were handed in, or there are none."""
        self._fernet: Any = None
        if keys is not None:
            self._fernet = _fernet(keys, "ATLAS_KEYS")

    @property
    def can_open(self) -> bool:
        """Whether there are keys now, without making any."""
        return self._fernet is not None or (self.file is not None and self.file.exists())

    def seal(self, name: str, value: Any) -> Mapping[str, str]:
        """The value of the setting `name`, unreadable. Raises NotConfigured when there is no key."""
        body = json.dumps([name, value], separators=(",", ":"), allow_nan=False).encode()
        return {"sealed": self._ready(make=True).encrypt(body).decode()}

    def open(self, name: str, sealed: Any) -> Any:
        """The value that was sealed for `name`. Raises Unreadable when no key opens it, or it belongs to another name."""
        from cryptography.fernet import InvalidToken

        try:
            found_name, value = json.loads(self._ready(make=False).decrypt(sealed["sealed"].encode()))
        except (InvalidToken, NotConfigured, KeyError, TypeError, ValueError, AttributeError):
            raise Unreadable(name) from None
        if found_name != name:
            raise Unreadable(name)
        return value

    def _ready(self, *, make: bool) -> Any:
        if self._fernet is None:
            if self.file is None or not (make or self.file.exists()):
                raise NotConfigured(f"There is no key for secrets: set ATLAS_KEYS ({MAKE_ONE}).")
            self._fernet = _fernet(_read_key_file(self.file), str(self.file))
        return self._fernet

    def __repr__(self) -> str:
        return f"<SecretBox with keys from {'ATLAS_KEYS' if self._keys else self.file or 'nowhere'}>"


def new_key() -> str:
    """A new key for ATLAS_KEYS."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def is_sealed(value: Any) -> bool:
    """Whether it has the form of a sealed value."""
    return isinstance(value, Mapping) and set(value) == {"sealed"} and isinstance(value["sealed"], str)


def _fernet(keys: str, source: str) -> Any:
    from cryptography.fernet import Fernet, MultiFernet

    found = [key for key in re.split(r"[,\s]+", keys) if key]
    try:
        return MultiFernet([Fernet(key) for key in found])
    except ValueError:
        raise ConfigurationError(f"{source} holds something that is no key for secrets: {MAKE_ONE}.") from None


def _read_key_file(path: Path) -> str:
    """What is in the key file; made with a new key when there is none. Refuses one that others can read."""
    try:
        if not path.exists():
            _make_key_file(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & 0o077:
                raise ConfigurationError(f"The key file {path} is open to other users (mode {mode:04o}): chmod 600 it.")
            return file.read(65536)
    except OSError as error:
        raise ConfigurationError(f"The key file {path} cannot be used: {error.strerror}.") from None


def _make_key_file(path: Path) -> None:
    """Make it whole or not at all; of two processes that do so at once, the first one's key holds."""
    from cryptography.fernet import Fernet

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp: 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
