"""The files of a generated repository, for every set of components."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from skeleton import names, repository
from skeleton.generate import Plan
from skeleton.toolkit import Origin

SETS = [
    subset for size in range(len(names.COMPONENTS) + 1) for subset in itertools.combinations(names.COMPONENTS, size)
]
_PYTHON_OF_TESTS = Path(sys.executable).parent


@pytest.fixture(scope="module", params=SETS, ids=lambda parts: "+".join(parts) or "none")
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """One repository of each set of components, with a name that has a hyphen."""
    folder = tmp_path_factory.mktemp("rendered")
    wanted = Plan("team-identity", folder, "accounts", 8010, request.param, Origin("1.0", checkout=folder), None)
    for part in ("scratch", "team-identity"):
        (folder / part).mkdir()
    repository.render(wanted.values, folder / "scratch", wanted.target)
    return wanted, wanted.target


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_it_can_be_read_in_ten_minutes(rendered: tuple[Plan, Path]) -> None:
    """At most 30 files and 700 lines, with the two lists of requirements and their locks still to come."""
    _, folder = rendered
    assert len(_files(folder)) + 2 <= 30
    assert sum(len(path.read_text().splitlines()) for path in _files(folder)) + 5 <= 700


def test_the_plan_names_exactly_these_files(rendered: tuple[Plan, Path]) -> None:
    """What --dry-run lists is what is written."""
    wanted, folder = rendered
    found = [path.relative_to(folder).as_posix() for path in _files(folder)]
    assert sorted(repository.listed(wanted.values)) == sorted(found)


def test_nothing_of_the_template_shows(rendered: tuple[Plan, Path]) -> None:
    """No mark of the template is left, no compiled file is there, and others' braces are intact."""
    _, folder = rendered
    for path in _files(folder):
        text = path.read_text()
        assert "cookiecutter" not in text + str(path.relative_to(folder)), path
        assert not re.search(r"\[%|%\]|\[#|#\]|\[\[", text), path
        assert text.endswith("\n") or not text, path
        assert path.suffix != ".pyc"
    assert "${{ github.ref }}" in (folder / ".github/workflows/ci.yaml").read_text()


def test_the_lint_is_clean(rendered: tuple[Plan, Path]) -> None:
    """The repository's own rules of ruff hold in it, format and order of imports included."""
    _assert_clean(rendered[1])


@pytest.mark.parametrize("name", ["a", "z" * names.LONGEST, "x-" * 19 + "x2"])
def test_the_lint_is_clean_whatever_the_name(name: str, tmp_path: Path) -> None:
    """The shortest and the longest name break no line and change no order of imports."""
    wanted = Plan(names.check_name(name), tmp_path, "x" * 63, 64535, names.COMPONENTS, Origin("1.0"), None)
    for part in ("scratch", "made"):
        (tmp_path / part).mkdir()
    repository.render(wanted.values, tmp_path / "scratch", tmp_path / "made")
    _assert_clean(tmp_path / "made")


def _assert_clean(folder: Path) -> None:
    for words in (["check", "."], ["format", "--check", "."]):
        ended = subprocess.run(
            [_PYTHON_OF_TESTS / "ruff", *words, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_written_migration_does_not_make_the_lint_red(tmp_path: Path) -> None:
    """What `flask db revision` writes is left to it."""
    wanted = Plan("hello", tmp_path, "accounts", 8010, ("db",), Origin("1.0", checkout=tmp_path), None)
    for part in ("scratch", "hello"):
        (tmp_path / part).mkdir()
    repository.render(wanted.values, tmp_path / "scratch", wanted.target)
    (wanted.target / "migrations" / "versions" / "0002_more.py").write_text(
        "import sqlalchemy as sa\nrevision = '0002'\n"
    )
    _assert_clean(wanted.target)


def test_a_smoke_test_of_nothing_is_red_in_a_line_each(rendered: tuple[Plan, Path]) -> None:
    """A service that is down is told without a traceback."""
    _, folder = rendered
    command = [sys.executable, str(folder / "smoke.py"), "http://127.0.0.1:1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert [line[:7] for line in ran.stdout.splitlines()] == ["RED GET"] * 4
    assert ran.stderr == ""


def test_the_service_tells_the_tools_who_it_is(rendered: tuple[Plan, Path]) -> None:
    """.service.toml has name, port, owner, components and the version of the template."""
    wanted, folder = rendered
    assert tomllib.loads((folder / ".service.toml").read_text()) == {
        "name": "team-identity",
        "port": 8010,
        "owner": "accounts",
        "components": list(wanted.components),
        "template": repository.TEMPLATE_VERSION,
    }


def test_every_service_has_the_same_verbs(rendered: tuple[Plan, Path]) -> None:
    """make lists help, setup, check, test, run, image, smoke and deploy in each."""
    _, folder = rendered
    listed = subprocess.run(["make"], cwd=folder, capture_output=True, text=True, check=True).stdout
    verbs = re.findall(r"make (\w+)", listed)
    assert verbs == ["help", "setup", "check", "test", "run", "image", "smoke", "deploy", "lock"]


def test_the_app_is_about_six_lines(rendered: tuple[Plan, Path]) -> None:
    """app.py is short enough to be the list of what the service answers."""
    _, folder = rendered
    lines = (folder / "team_identity" / "app.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and '"""' not in line]
    assert len(code) <= 7


def test_there_is_no_secret_and_no_host_of_an_index(rendered: tuple[Plan, Path]) -> None:
    """No password, key or token has a value anywhere, and no package index is named."""
    _, folder = rendered
    for path in _files(folder):
        text = path.read_text()
        assert not re.search(r"(?i)\b(password|secret_key|token|api_key)\s*[:=]\s*[\"']?\w", text), path
        assert not re.search(r"://[^/\s@]+:[^/\s@]+@", text), path
        assert not re.search(r"(?i)pypi|index-url", text), path


def test_the_times_of_a_stop_fit_together(rendered: tuple[Plan, Path]) -> None:
    """Kubernetes and systemd wait longer than drain and graceful stop take with the framework's defaults."""
    from sidecar.commands.up import AGENT_SECONDS, PROXY_SECONDS
    from smartservice import defaults
    from smartservice.gunicorn import CLOSE_SECONDS, drain_seconds

    _, folder = rendered
    needed = drain_seconds(vars(defaults)) + defaults.GRACEFUL_SECONDS + CLOSE_SECONDS
    sidecar = AGENT_SECONDS + PROXY_SECONDS  # stopped when the service has ended, within the same time
    kubernetes = (folder / "deploy" / "service.yaml").read_text()
    systemd = (folder / "deploy" / "team-identity.service").read_text()
    compose = (folder / "compose.yaml").read_text()
    for text, pattern, seconds in (
        (kubernetes, r"terminationGracePeriodSeconds: (\d+)", needed + sidecar),
        (systemd, r"TimeoutStopSec=(\d+)", needed),
        (compose, r"stop_grace_period: (\d+)s", needed),
    ):
        found = re.search(pattern, text)
        assert found is not None
        assert int(found[1]) > seconds
    readiness = kubernetes.partition("readinessProbe:")[2].partition("resources:")[0]
    assert f"periodSeconds: {defaults.PROBE_INTERVAL:g}\n" in readiness
    assert f"failureThreshold: {defaults.PROBE_FALL}\n" in readiness


def test_liveness_is_asked_on_the_management_port(rendered: tuple[Plan, Path]) -> None:
    """All probes go where busy worker threads cannot hold them up, and liveness asks for no dependency."""
    _, folder = rendered
    probes = re.findall(r"httpGet: \{path: (\S+), port: (\w+)\}", (folder / "deploy" / "service.yaml").read_text())
    assert probes == [(f"/healthcheck/{group}", "management") for group in ("startup", "live", "ready")]
    assert "MANAGEMENT_PORT=9010" in (folder / "Dockerfile").read_text()


def test_a_migration_exists_only_with_a_database(rendered: tuple[Plan, Path]) -> None:
    """Models, migrations and the job that runs them come with db, and only with it."""
    wanted, folder = rendered
    for path in ("migrations", "team_identity/models.py", "deploy/migrate.yaml"):
        assert (folder / path).exists() == ("db" in wanted.components)
    assert ("migrate" in (folder / "Makefile").read_text()) == ("db" in wanted.components)


def test_the_manifests_are_what_they_should_be(rendered: tuple[Plan, Path]) -> None:
    """Two replicas that a disruption budget protects, nothing writable but /tmp, no privilege, limits, and valid YAML."""
    import yaml  # type: ignore[import-untyped]

    wanted, folder = rendered
    found = {}
    for path in [*folder.glob("deploy/*.yaml"), folder / "compose.yaml", folder / ".github" / "workflows" / "ci.yaml"]:
        for document in yaml.safe_load_all(path.read_text()):
            found[document.get("kind", path.name)] = document
    job = {"Job"} if "db" in wanted.components else set()
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget", "compose.yaml", "ci.yaml"} | job
    for kind in {"Deployment"} | job:
        pod = found[kind]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        sidecar = ["/run/smartservice"] if kind == "Deployment" else []
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", *sidecar]
        assert container["resources"]["limits"]["memory"]
        (source,) = container["envFrom"]
        assert source["secretRef"].get("optional", False) is not bool(job)
    assert found["Deployment"]["spec"]["replicas"] > found["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_the_image_is_locked_and_runs_as_nobody(rendered: tuple[Plan, Path]) -> None:
    """Two stages, every hash required, a numeric user that is not root."""
    _, folder = rendered
    dockerfile = (folder / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", dockerfile, re.M)) == 2
    assert "--require-hashes" in dockerfile
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", dockerfile, re.M)


def test_the_image_knows_its_version(rendered: tuple[Plan, Path]) -> None:
    """`make image` hands its tag in, and the service starts with it as RELEASE: by that a split tells instances apart."""
    _, folder = rendered
    told = subprocess.run(
        ["make", "-n", "image", "TAG=1.5"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert "--build-arg RELEASE=1.5 " in told
    assert re.search(r"^ARG RELEASE=\nENV RELEASE=\$RELEASE$", (folder / "Dockerfile").read_text(), re.M)
