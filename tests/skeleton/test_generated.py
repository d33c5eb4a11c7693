"""Every verb of a generated repository works, for every set of components, here and in a fresh clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from skeleton.indexes import pip_settings, uv_variables
from skeleton.locks import pinned
from tests.processes import Child, free_port
from tests.skeleton.conftest import BIN, Generator, run

SETS = [(), ("db",), ("redis",), ("db", "redis")]
Generated = Callable[[tuple[str, ...]], Path]


def _environment(home: Path, **more: str) -> dict[str, str]:
    """What a developer's shell has, with uv within reach, which is told what pip's configuration says: HOME is another."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "UV_", "LANG"))}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    told = uv_variables(os.environ, pip_settings(os.environ))
    return {**told, **kept, "PATH": path, "HOME": str(home), "UV_CACHE_DIR": str(Path.home() / ".cache" / "uv"), **more}


@pytest.mark.parametrize("components", SETS, ids=lambda parts: "+".join(parts) or "none")
def test_check_test_run_and_smoke_work(
    generated: Generated, components: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`make check test`, then `make run` with a real Redis where there is one, then `make smoke` against it."""
    folder = tmp_path / "copy"
    shutil.copytree(generated(components), folder, symlinks=True)
    port = free_port()
    more = {"PORT": str(port), "URL": f"http://127.0.0.1:{port}"}
    if "redis" in components:
        url = request.getfixturevalue("redis_url")
        more.update(TEST_REDIS_URL=url, REDIS_URL=url)
    env = _environment(tmp_path, **more)
    said = run(["make", "check", "test"], folder, env)
    assert "passed" in said
    assert "skipped" not in said
    with Child(["make", "run"], output=tmp_path / "log", env=env, cwd=folder) as child:
        child.wait_ready(lambda: _status(f"{more['URL']}/healthcheck") == 200, 60)
        assert run(["make", "smoke"], folder, env).count("ok  GET") == 4
        if "redis" in components and "db" not in components:
            assert _json(f"{more['URL']}/greetings?name=Mary") == {"name": "Mary", "times": 0}
        if "db" in components:
            assert _json(f"{more['URL']}/greetings") == {"greetings": []}
    run(["git", "diff", "--exit-code"], folder, env)
    assert run(["git", "status", "--porcelain"], folder, env) == ""


def test_on_postgres_the_migration_makes_what_the_models_say(
    generated: Generated, postgres_url: str, tmp_path: Path
) -> None:
    """`flask db upgrade` on an empty PostgreSQL leaves no difference between tables and models; tests are green there."""
    folder = tmp_path / "copy"
    shutil.copytree(generated(("db",)), folder, symlinks=True)
    env = _environment(tmp_path, DATABASE_URL=postgres_url)
    python = folder / ".venv" / "bin" / "python"
    run([python, "-m", "flask", "db", "upgrade"], folder, env)
    run([python, "-m", "flask", "db", "check"], folder, env)
    run([python, "-m", "flask", "db", "downgrade"], folder, env)
    run([python, "-m", "pytest"], folder, {**env, "TEST_DATABASE_URL": postgres_url})


def test_a_fresh_clone_elsewhere_is_set_up_from_the_lock(generated: Generated, tmp_path: Path) -> None:
    """Nothing but the repository is needed: `make setup test` in a clone installs the locked hashes, wheel included."""
    clone = tmp_path / "somewhere else"
    run(["git", "clone", "--quiet", generated(("db",)), clone], tmp_path, _environment(tmp_path))
    assert "passed" in run(["make", "setup", "test"], clone, _environment(tmp_path))


def test_locking_anew_keeps_the_shape_of_the_lock(generated: Generated, tmp_path: Path) -> None:
    """`make lock` writes both files as the generator does, with the same versions in both, and leaves nothing beside."""
    clone = tmp_path / "elsewhere"
    run(["git", "clone", "--quiet", generated(()), clone], tmp_path, _environment(tmp_path))
    names = ("requirements.txt", "requirements-dev.txt")
    before = {name: (clone / name).read_text() for name in names}
    run(["make", "lock"], clone, _environment(tmp_path))
    after = {name: (clone / name).read_text() for name in names}
    for name in names:
        assert after[name].splitlines()[:2] == before[name].splitlines()[:2]
        assert ".new" not in after[name]
    assert pinned(after["requirements.txt"]) <= pinned(after["requirements-dev.txt"])
    assert set(run(["git", "status", "--porcelain"], clone, _environment(tmp_path)).split()) <= {"M", *names}


def test_whoever_may_enter_the_folder_may_enter_the_service(generator: Generator) -> None:
    """The repository and the folder that it is put into have the mode of the umask: another user may serve it."""
    os.umask(umask := os.umask(0))
    generator.into.chmod(0o777 & ~umask)
    assert generator("hello", "--no-verify").returncode == 0
    for folder in (generator.into, generator.into / "hello", generator.into / "hello" / "hello"):
        assert folder.stat().st_mode & 0o777 == 0o777 & ~umask, folder


def test_what_is_generated_stands_on_its_own(generated: Generated) -> None:
    """No file mentions where it was built, its programs start, and it is one clean commit on main."""
    folder = generated(("db",))
    for program in ("flask", "gunicorn", "pytest", "alembic"):
        run([folder / ".venv" / "bin" / program, "--version"], folder, _environment(folder))
    mentioned = subprocess.run(
        ["grep", "-rlE", r"\.[a-z-]+\.partial-[0-9a-f]{12}", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert mentioned.stdout == ""
    git = run(["git", "log", "--format=%s", "main"], folder, _environment(folder))
    assert git == "team-identity: a new service\n"
    assert run(["git", "status", "--porcelain"], folder, _environment(folder)) == ""


def test_the_lock_has_a_hash_for_every_file_and_names_no_index(generated: Generated) -> None:
    """Each requirement is pinned with hashes, and no host of any index is in the lock."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        lock = (generated(("db",)) / name).read_text()
        pins = re.findall(r"^[a-z0-9][^\s=]*==\S+", lock, re.M)
        assert len(pins) > 20
        assert len(re.findall(r"^[a-z0-9][^\n]*\\\n    --hash=sha256:", lock, re.M)) == len(pins)
        assert "://" not in lock
        assert "/tmp" not in lock


def test_the_home_of_the_user_is_untouched(generator: Generator) -> None:
    """No replay file, no configuration, nothing at all is written under HOME."""
    ended = generator("hello", "--no-verify")
    assert ended.returncode == 0, ended.stderr
    assert list((generator.folder / "home").iterdir()) == []


def test_a_hostile_git_configuration_stops_nothing(generator: Generator) -> None:
    """No identity, forced signing, failing hooks, templates, an ignore file for wheels: the first commit is made."""
    hooks = generator.folder / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    (generator.folder / "ignored").write_text("*.whl\nvendor/\n*.toml\n")
    (generator.folder / "home" / ".gitconfig").write_text(
        f"[commit]\n\tgpgsign = true\n[gpg]\n\tprogram = false\n[core]\n\thooksPath = {hooks}\n\tautocrlf = true\n"
        f"\texcludesFile = {generator.folder / 'ignored'}\n[user]\n\tuseConfigOnly = true\n"
        f"[init]\n\ttemplateDir = {hooks}\n\tdefaultBranch = other\n[tag]\n\tgpgSign = true\n"
    )
    elsewhere = {
        "GIT_DIR": "/nowhere",
        "GIT_WORK_TREE": "/nowhere",
        "GIT_INDEX_FILE": "/nowhere",
        "GIT_EDITOR": "false",
    }
    ended = generator("hello", "--no-verify", GIT_CONFIG_NOSYSTEM="1", **elsewhere)
    assert ended.returncode == 0, ended.stderr
    said = run(["git", "log", "--stat", "--format=%an %s %G?", "main"], generator.into / "hello", os.environ)
    assert "hello: a new service N" in said
    assert ".whl" in said


def test_offline_repeats_what_was_done_before_and_nothing_else(generator: Generator, tmp_path: Path) -> None:
    """With warm caches no network is needed; with cold ones the sentence says so and the exit code is 5."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple"}
    assert generator("one", "--no-verify", "--with", "redis").returncode == 0
    again = generator("two", "--offline", "--no-verify", "--with", "redis")
    assert again.returncode == 0, again.stderr
    cold = generator("three", "--offline", "--no-verify", XDG_CACHE_HOME=str(tmp_path / "new"), **nowhere)
    assert cold.returncode == 5, cold.stderr
    assert "--offline" in cold.stderr
    assert generator.left() == ["one", "two"]


def test_an_index_that_does_not_answer_ends_with_5_and_hides_the_password(generator: Generator, tmp_path: Path) -> None:
    """One sentence, exit code 5, nothing left, and no credential of the index in any output."""
    index = "http://someone:correct-horse@127.0.0.1:1/simple"
    more = {"PIP_INDEX_URL": index, "UV_CACHE_DIR": str(tmp_path / "uv"), "UV_HTTP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    more["PIP_CONFIG_FILE"] = os.devnull
    assert generator("first", "--no-verify").returncode == 0  # The wheel of the toolkit is built.
    ended = generator("hello", "--json", **more)
    assert ended.returncode == 5, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["error"]["code"] == 5
    assert "correct-horse" not in ended.stdout + ended.stderr
    assert generator.left() == ["first"]


@pytest.mark.timeout(400)
def test_without_uv_venv_and_pip_do_it(generator: Generator) -> None:
    """The slow way gives the same kind of repository: hashed lock, green proof, an environment that knows its place."""
    ended = generator("hello", "--installer", "pip")
    assert ended.returncode == 0, ended.stderr
    folder = generator.into / "hello"
    assert "--hash=sha256:" in (folder / "requirements.txt").read_text()
    assert "on this platform only" in (folder / "requirements-dev.txt").read_text()
    assert f"{folder}/.venv/bin/python" in (folder / ".venv" / "bin" / "flask").read_text()
    run([folder / ".venv" / "bin" / "flask", "--version"], folder, generator.env)


def test_a_service_whose_tests_are_red_is_not_kept(generator: Generator, tmp_path: Path) -> None:
    """When the proof fails, the exit code is 6, the output of the failing part is shown, and nothing is left."""
    from skeleton import generate, repository
    from skeleton.errors import NotProven
    from tests.skeleton.doubles import Silent

    wanted = generate.plan("hello", into=generator.into)
    template = tmp_path / "template"
    shutil.copytree(repository.TEMPLATE, template)
    test = template / "[[ cookiecutter.name ]]" / "tests" / "test_service.py"
    test.write_text(test.read_text().replace("== 200", "== 201", 1))
    with pytest.raises(NotProven, match="own tests are red") as red:
        generate.generate(wanted, Silent(), generator.env, template=template)
    assert "assert 200 == 201" in red.value.output
    assert red.value.exit_code == 6
    assert generator.left() == []


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except OSError:
        return 0


def _json(url: str) -> object:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)
