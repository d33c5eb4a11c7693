"""What `sidecar units` writes, and what it leaves alone."""

from __future__ import annotations

import configparser
import json
import os
import re
import socket
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner, Result

from sidecar import probe
from sidecar.commands.units import units as command
from sidecar.commands.up import AGENT_SECONDS, PROXY_SECONDS
from sidecar.settings import Settings
from sidecar.terminal import Tools
from sidecar.units import CONTAINER_USER, Place, rendered
from smartrealm.errors import BadRequest, Conflict

PLACE = Place(("/opt/sidecar/bin/sidecar",), realm="production", directory=Path("/run/smartservice/production"))
FILES = rendered(PLACE)


def _unit(name: str) -> configparser.RawConfigParser:
    """A unit, the last of several lines of one name counting."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(FILES[name])
    return parser


def _run(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(command, words, obj=Tools(environ=environ), standalone_mode=False)


def test_either_unit_is_started_again_alone() -> None:
    """The agent wants HAProxy and does not require it; neither stops for good, and neither takes the other along."""
    agent, proxy = _unit("smartservice-sidecar.service"), _unit("smartservice-proxy.service")
    assert "smartservice-proxy.service" in agent["Unit"]["Wants"]
    for unit in (agent, proxy):
        assert not {"Requires", "BindsTo", "PartOf"} & set(unit["Unit"])
        assert unit["Service"]["Restart"] == "always"
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"
        assert unit["Service"]["RuntimeDirectoryPreserve"] == "yes"
    assert agent["Service"]["ExecStart"] == "/opt/sidecar/bin/sidecar run --proxy external"
    assert proxy["Service"]["ExecStart"] == "/opt/sidecar/bin/sidecar proxy --systemd"
    assert proxy["Service"]["Type"] == "notify"


def test_the_units_are_hardened_like_those_of_the_services() -> None:
    """Whatever keeps a generated service in its place keeps the sidecar there; both have a user of their own and no capability."""
    template = (
        Path(__file__).parents[3] / "skeleton/template/[[ cookiecutter.name ]]/deploy/[[ cookiecutter.name ]].service"
    )
    names = ("Protect", "Private", "Restrict", "NoNew", "Lock", "SystemCall", "Capability")
    wanted = {line for line in template.read_text().splitlines() if line.startswith(names)}
    assert len(wanted) > 12
    for name in ("smartservice-sidecar.service", "smartservice-proxy.service"):
        lines = set(FILES[name].splitlines())
        assert wanted <= lines
        assert {"User=smartservice", "Group=smartservice", "CapabilityBoundingSet="} <= lines


def test_units_and_folders_speak_of_the_same_place() -> None:
    """The folder of the units is that of tmpfiles; services of the group enter it and write to announce/ alone."""
    for name in ("smartservice-sidecar.service", "smartservice-proxy.service"):
        service = _unit(name)["Service"]
        assert service["RuntimeDirectory"] == "smartservice/production"
        assert service["RuntimeDirectoryMode"] == "0750"
        assert "SIDECAR_DIR=/run/smartservice/production " in FILES[name]
    lines = [line.split() for line in FILES["smartservice-tmpfiles.conf"].splitlines() if line.startswith("d ")]
    assert lines == [
        ["d", "/run/smartservice/production", "0750", "smartservice", "smartservice", "-"],
        ["d", "/run/smartservice/production/announce", "3770", "smartservice", "smartservice", "-"],
    ]
    assert "u smartservice - " in FILES["smartservice-sysusers.conf"]


def test_haproxy_may_open_what_its_connections_need() -> None:
    """Two files for each connection of the default, one for each of 10,000 servers, and some."""
    limit = int(_unit("smartservice-proxy.service")["Service"]["LimitNOFILE"])
    assert limit > 2 * Settings(Path("/run"), Path("/var")).max_connections + 2 * 10_000 + 500


def test_the_bounds_of_a_stop_fit_together() -> None:
    """systemd and Kubernetes wait at least as long as `sidecar up` takes to end both."""
    assert PLACE.stop_seconds >= AGENT_SECONDS + PROXY_SECONDS
    assert int(_unit("smartservice-proxy.service")["Service"]["TimeoutStopSec"]) >= PROXY_SECONDS


def test_another_place_outside_of_run_is_written_to() -> None:
    """What systemd cannot make it lets the units write to."""
    place = Place(("/opt/s/sidecar",), directory=Path("/data/sidecar"), state=Path("/data/state"))
    unit = rendered(place)["smartservice-sidecar.service"]
    assert "ReadWritePaths=/data/sidecar\nReadWritePaths=/data/state\n" in unit
    assert "RuntimeDirectory=" not in unit


def test_a_program_in_a_home_can_be_run() -> None:
    """ProtectHome=yes would hide it; everywhere else homes are hidden. Signs that systemd expands are doubled."""
    at_home = rendered(Place(("/home/ada/my venv/100%/sidecar",)))["smartservice-sidecar.service"]
    assert "ProtectHome=read-only" in at_home
    assert 'ExecStart="/home/ada/my venv/100%%/sidecar" run' in at_home
    assert "ProtectHome=yes" in FILES["smartservice-sidecar.service"]


def test_the_image_runs_as_nobody_and_begins_with_up() -> None:
    """A numeric user that is the services' one, both programs beside each other, a probe, nothing of another package."""
    text = FILES["Dockerfile"]
    assert f"USER {CONTAINER_USER}:{CONTAINER_USER}" in text
    assert 'ENTRYPOINT ["sidecar", "up"]' in text
    assert 'CMD ["python", "-m", "sidecar.probe", "ready"]' in text
    assert "--no-deps" in text
    assert "$$" not in text


def test_the_part_of_a_manifest_is_a_native_sidecar() -> None:
    """An init container that stays, with everything mounted that it names, and no secret in the text."""
    pod = yaml.safe_load(FILES["kubernetes.yaml"])["spec"]["template"]["spec"]
    (container,) = pod["initContainers"]
    assert container["restartPolicy"] == "Always"
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    environ = {entry["name"]: entry for entry in container["env"]}
    assert environ["SIDECAR_DIR"]["value"] == container["volumeMounts"][0]["mountPath"]
    assert {"secretKeyRef"} == set(environ["ATLAS_TOKEN"]["valueFrom"])


def test_no_file_holds_a_mark_of_its_template() -> None:
    """Every name was filled in, and nothing but shell variables is left."""
    for name, text in FILES.items():
        assert set(re.findall(r"\$\w+", text)) <= {"$MAINPID", "$SMARTSERVICE", "$HOME"}, name
        assert text.endswith("\n")


def test_what_differs_is_kept_and_said(tmp_path: Path) -> None:
    """Written once; the same again is no change; an edited file stays, is named, and the command ends with a conflict."""
    _run("--to", str(tmp_path), REALM="production")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert json.loads(_run("--to", str(tmp_path), "--json", REALM="production").output)["files"] == dict.fromkeys(
        FILES, "same"
    )
    edited = tmp_path / "smartservice-proxy.service"
    edited.write_text(edited.read_text() + "Nice=-5\n")
    told = _run("--to", str(tmp_path), REALM="production")
    assert isinstance(told.exception, Conflict)
    assert "smartservice-proxy.service" in told.exception.message
    assert "Nice=-5" in edited.read_text()
    told = _run("--to", str(tmp_path), "--force", REALM="production")
    assert f"replaced {edited}" in told.output
    assert "Nice=-5" not in edited.read_text()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """It says what it would write, and the folder does not even appear."""
    folder = tmp_path / "units"
    assert f"would write {folder / 'Dockerfile'}" in _run("--to", str(folder), "--dry-run").output
    assert not folder.exists()


@pytest.mark.parametrize("words", [["--user", "root"], ["--user", "a b"], ["--dir", "/run/a b"], ["--dir", "relative"]])
def test_what_cannot_stand_in_a_unit_is_refused(words: list[str]) -> None:
    """Names and folders that systemd would read as something else, and root."""
    assert isinstance(_run(*words).exception, BadRequest)


def test_a_probe_is_green_after_a_while_when_haproxy_serves(tmp_path: Path) -> None:
    """Without Atlas a pod starts later and starts, also when the clock is set back meanwhile; without HAProxy it never does."""
    environ = {"SIDECAR_ADMIN_PORT": "1", "SIDECAR_DIR": str(tmp_path)}
    (tmp_path / "up.lock").touch()
    asked = ["ready", "--at-most", "30"]
    assert probe.main(asked, environ) == 1

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "haproxy.sock"))
        listening.listen()
        assert probe.main(asked, environ) == 1
        begun = (tmp_path / "up.lock").stat().st_mtime
        for at in (begun - 31, begun + 3600):
            os.utime(tmp_path / "up.lock", (at, at))
            assert probe.main(asked, environ) == 0
    assert probe.main(asked, environ) == 1
