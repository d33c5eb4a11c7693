"""The server programs that the tests talk to: where they are, and `python tests/install_servers.py` to get them.

On Debian as root the missing ones are installed, and nothing of it is started. Elsewhere the names of what to install are
printed; a laptop without them skips those tests (exit code 0), a machine with CI set fails (exit code 1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """A server program, the Debian package that brings it and where it hides when it is not on the PATH."""

    name: str
    debian_package: str
    hidden_in: tuple[str, ...] = ()
    """Globs of directories, from the root."""
    units: tuple[str, ...] = ()
    """The systemd units that the package would start with the machine."""


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "postgres",
            "postgresql",
            ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin"),
            ("postgresql.service",),
        ),
        Program("redis-server", "redis-server", ("opt/homebrew/bin",), ("redis-server.service",)),
    )
}

_POLICY = Path("/usr/sbin/policy-rc.d")
_KEPT = _POLICY.with_name("policy-rc.d.before-smartservice")


def find(name: str) -> Path | None:
    """The executable of a program in PROGRAMS, or None when it is not installed. Prefers a real one to a wrapper.

    Symbolic links stay: `redis-server` is one, and goes by the name that it was called by.
    """
    for pattern in PROGRAMS[name].hidden_in:
        for directory in sorted(Path("/").glob(pattern), key=_by_version, reverse=True):
            if os.access(directory / name, os.X_OK):
                return directory / name
    found = shutil.which(name)
    return Path(found) if found else None


def _by_version(directory: Path) -> list[int]:
    return [int("".join(filter(str.isdigit, part)) or 0) for part in directory.parts]


def missing() -> list[Program]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS.values() if find(program.name) is None]


def can_install() -> bool:
    """Whether this is Debian (or a child of it) and we are root."""
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def install(programs: Sequence[Program]) -> None:
    """Install with apt-get, starting nothing now and nothing when the machine starts."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PGCLUSTER_AUTOSTART": "manual"}
    packages = [program.debian_package for program in programs]
    get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    with nothing_starts():
        subprocess.run([*get, "update"], check=True, env=environment, stdout=subprocess.DEVNULL)
        command = [*get, "install", "-y", "--no-install-recommends", *packages]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    if Path("/run/systemd/system").exists():
        units = [unit for program in programs for unit in program.units]
        subprocess.run(["systemctl", "disable", *units], check=False, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def nothing_starts(policy: Path = _POLICY, kept: Path = _KEPT) -> Iterator[None]:
    """While this holds, Debian packages start no service: a policy-rc.d that exits 101. What was there comes back.

    What was there waits in a file of its own, so that a run after a killed one restores it too.
    """
    if policy.exists() and not kept.exists():
        policy.rename(kept)
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(policy)


def main() -> int:
    wanted = missing()
    if wanted and can_install():
        print(f"installing {', '.join(program.debian_package for program in wanted)} for the tests ...", flush=True)
        try:
            install(wanted)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"that did not work: {error}", file=sys.stderr)
        wanted = missing()
    if not wanted:
        return 0
    names = ", ".join(program.name for program in wanted)
    packages = " ".join(program.debian_package for program in wanted)
    effect = "CI is set, so this is an error" if os.environ.get("CI") else "the tests that need them will be skipped"
    print(f"missing server programs: {names} (Debian: apt-get install {packages}); {effect}.", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
