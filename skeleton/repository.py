"""The files of a new service, out of the template, and their first commit."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from skeleton.errors import GenerateError, ToolMissing
from skeleton.processes import Failed, Processes, clean_environment

TEMPLATE = Path(__file__).parent / "template"
TEMPLATE_VERSION = 1
_ONLY_WITH = {
    "db": ("migrations", "[package]/models.py", "deploy/migrate.yaml"),
}

# Nothing of the user's git configuration can stop or change the first commit: no signing, hooks, templates, filters.
_PLAIN_GIT = (
    *("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null", "-c", "core.excludesFile=/dev/null"),
    *("-c", "core.attributesFile=/dev/null", "-c", "core.autocrlf=false", "-c", "core.fsmonitor=false"),
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "init.templateDir=", "-c", "commit.verbose=false"),
)


def load() -> None:
    """Import what fills the template, so that `render` is quick."""
    import cookiecutter.generate  # type: ignore[import-untyped]  # noqa: F401


def render(values: Mapping[str, object], scratch: Path, target: Path, template: Path = TEMPLATE) -> None:
    """Write the files of the service to `target`; its values come from checked options only."""
    from cookiecutter.generate import generate_context, generate_files

    context = generate_context(context_file=str(template / "cookiecutter.json"), extra_context=dict(values))
    made = generate_files(str(template), context, str(scratch), accept_hooks=False)
    for component, paths in _ONLY_WITH.items():
        if not values[component]:
            for path in paths:
                _remove(Path(made) / path.replace("[package]", str(values["package"])))
    for folder in list(Path(made).rglob("__pycache__")):  # pip compiles what looks like Python, templates too.
        shutil.rmtree(folder)
    mode = target.stat().st_mode
    os.rmdir(target)
    os.rename(made, target)
    target.chmod(mode)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def listed(values: Mapping[str, object]) -> list[str]:
    """The files that `render` writes, without writing them."""
    root = TEMPLATE / "[[ cookiecutter.name ]]"
    names = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix().replace("[[ cookiecutter.package ]]", "[package]")
        name = name.replace("[[ cookiecutter.name ]]", str(values["name"]))
        unwanted = (part for component, parts in _ONLY_WITH.items() if not values[component] for part in parts)
        if path.is_file() and "__pycache__" not in name and not name.startswith(tuple(unwanted)):
            names.append(name.replace("[package]", str(values["package"])))
    return names


def find_git(environ: Mapping[str, str]) -> Path:
    """The program git; ToolMissing when there is none."""
    found = shutil.which("git", path=environ.get("PATH"))
    if not found:
        raise ToolMissing("git is not installed here and the new repository needs it; install git and run this again.")
    return Path(found)


def first_commit(git: Path, folder: Path, message: str, processes: Processes, environ: Mapping[str, str]) -> None:
    """Make the folder a repository with one commit on `main`, whatever the user's git is set to."""
    env = clean_environment(environ, GIT_TERMINAL_PROMPT="0", LC_ALL="C")

    def run(*words: str) -> str:
        return processes.run([git, *_PLAIN_GIT, *words], cwd=folder, env=env, name="git", seconds=60)

    try:
        run("init", "--quiet", "--template=", "--initial-branch=main", ".")
        run("add", "--all", ".")
        run(*_identity(processes, git, folder, env), "commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", message)
    except Failed as failed:
        raise GenerateError(
            f"The first commit could not be made ({failed.what}); see git's words above.", output=failed.output
        ) from failed


def _identity(processes: Processes, git: Path, folder: Path, env: Mapping[str, str]) -> list[str]:
    """Options that name an author where the user has configured none."""
    options = []
    for key, variable, fallback in (("name", "NAME", _login()), ("email", "EMAIL", f"{_login()}@localhost")):
        if env.get(f"GIT_AUTHOR_{variable}") and env.get(f"GIT_COMMITTER_{variable}"):
            continue
        try:
            known = processes.run([git, "config", f"user.{key}"], cwd=folder, env=env, name="git").strip()
        except Failed:
            known = ""
        if not known:
            options += ["-c", f"user.{key}={fallback}"]
    return options


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A numeric user without a name, as in many containers.
        return "nobody"
