"""The server programs that the tests talk to: where they are, and `python tests/install_servers.py [NAME ...]` to get them.

On Debian as root the missing ones are installed, and nothing of it is started; what comes from npm goes into a directory of
its own below the user's cache directory. Elsewhere the names of what to install are printed; a laptop without them skips
those tests (exit code 0), a machine with CI set fails (exit code 1). Consul is used where it is, and asked of nobody.
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
    """A program, the Debian package that brings it and where it hides when it is not on the PATH."""

    name: str
    debian_package: str = ""
    hidden_in: tuple[str, ...] = ()
    """Globs of directories, from the root."""
    file: str = ""
    """What to look for, when it is not an executable of the same name."""
    npm_package: str = ""
    """The package of npm that brings it, with its version; installed below NODE_PROGRAMS."""
    optional: bool = False
    """Without it its tests are skipped, even when CI is set."""
    units: tuple[str, ...] = ()
    """The systemd units that the package would start with the machine."""

    @property
    def how(self) -> str:
        """How to get it, in a few words."""
        if self.npm_package:
            return f"python tests/install_servers.py, which asks npm for {self.npm_package}"
        return f"Debian: apt-get install {self.debian_package}" if self.debian_package else "it is not in Debian"


NODE_PROGRAMS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smartservice" / "node"
"""Where programs from npm are installed: no work tree's, so that each machine does it once."""

PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "postgres",
            "postgresql",
            ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin"),
            units=("postgresql.service",),
        ),
        Program("redis-server", "redis-server", ("opt/homebrew/bin",), units=("redis-server.service",)),
        Program("java", "default-jre-headless", ("opt/homebrew/opt/openjdk/bin",)),
        Program(
            "zookeeper",
            "zookeeper",
            ("usr/share/java", "opt/homebrew/opt/zookeeper/libexec/lib"),
            file="zookeeper*.jar",
            units=("zookeeper.service",),
        ),
        Program("etcd", "etcd-server", ("opt/homebrew/bin",), units=("etcd.service",)),
        Program("dynalite", npm_package="dynalite@3.2.2"),
        Program("haproxy", "haproxy", ("usr/sbin",), units=("haproxy.service",)),
        Program("chromium", "chromium"),
        Program("consul", optional=True),
    )
}

_POLICY = Path("/usr/sbin/policy-rc.d")
_KEPT = _POLICY.with_name("policy-rc.d.before-smartservice")


def find(name: str) -> Path | None:
    """The executable (or the file) of a program in PROGRAMS, None when it is not installed. Prefers a real one to a wrapper.

    Symbolic links stay: `redis-server` is one, and goes by the name that it was called by.
    """
    program = PROGRAMS[name]
    for pattern in program.hidden_in:
        for directory in sorted(Path("/").glob(pattern), key=_by_version, reverse=True):
            for candidate in sorted(directory.glob(program.file or name)):
                if program.file or os.access(candidate, os.X_OK):
                    return candidate
    if program.npm_package:
        candidate = NODE_PROGRAMS / "node_modules" / ".bin" / name
        if os.access(candidate, os.X_OK):
            return candidate
    found = None if program.file else shutil.which(name)
    return Path(found) if found else None


def _by_version(directory: Path) -> list[int]:
    return [int("".join(filter(str.isdigit, part)) or 0) for part in directory.parts]


def missing(names: Sequence[str] = ()) -> list[Program]:
    """The programs that are not installed: these, or all without the optional ones."""
    chosen = [PROGRAMS[name] for name in names] or [one for one in PROGRAMS.values() if not one.optional]
    return [program for program in chosen if find(program.name) is None]


def can_install() -> bool:
    """Whether this is Debian (or a child of it) and we are root."""
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def install(programs: Sequence[Program]) -> None:
    """Install with apt-get and npm, starting nothing now and nothing when the machine starts."""
    packages = [program.debian_package for program in programs if program.debian_package]
    from_npm = [program.npm_package for program in programs if program.npm_package]
    if from_npm and shutil.which("npm") is None:
        # Only when there is none: beside a nodejs that brings its own npm, Debian's package conflicts.
        packages.append("npm")
    if packages and can_install():
        install_from_debian(packages)
        if Path("/run/systemd/system").exists():
            units = [unit for program in programs for unit in program.units]
            subprocess.run(["systemctl", "disable", *units], check=False, stdout=subprocess.DEVNULL)
    if from_npm and shutil.which("npm") is not None:
        NODE_PROGRAMS.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(NODE_PROGRAMS)]
        subprocess.run([*command, *from_npm], check=True, cwd=NODE_PROGRAMS, stdout=subprocess.DEVNULL)


def install_from_debian(packages: Sequence[str]) -> None:
    """Install Debian packages and start none of their services."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PGCLUSTER_AUTOSTART": "manual"}
    get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    with nothing_starts():
        subprocess.run([*get, "update"], check=True, env=environment, stdout=subprocess.DEVNULL)
        command = [*get, "install", "-y", "--no-install-recommends", *packages]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


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


def main(names: Sequence[str] = ()) -> int:
    wanted = missing(names)
    here = [program for program in wanted if can_install() or (program.npm_package and shutil.which("npm"))]
    if here:
        print(f"installing {', '.join(program.name for program in here)} ...", flush=True)
        try:
            install(here)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"that did not work: {error}", file=sys.stderr)
        wanted = missing(names)
    if not wanted:
        return 0
    names = "; ".join(f"{program.name} ({program.how})" for program in wanted)
    effect = "CI is set, so this is an error" if os.environ.get("CI") else "what needs them is left out"
    print(f"missing programs: {names}. {effect[0].upper()}{effect[1:]}.", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
