"""The manifests of a generated repository, as `make deploy` hands them to a cluster: with the sidecar and without it."""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from skeleton import repository
from skeleton.generate import Plan
from skeleton.toolkit import Origin

Documents = dict[str, Any]

_KUBECTL = """#!/bin/sh
[ "$1" = apply ] && { echo ---; cat; } >> "$APPLIED"
echo "$@" >> "$APPLIED.words"
"""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123, as Kubernetes asks of names
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")  # RFC 6335
_QUANTITY = re.compile(r"\d+(m|Ki|Mi|Gi)?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


@pytest.fixture(scope="module", params=[(), ("db", "redis")], ids=["none", "db+redis"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the newest toolkit, under git as `make` wants it for the tag of the image."""
    into = tmp_path_factory.mktemp("rendered")
    wanted = Plan("team-identity", into, "accounts", 8010, request.param, Origin("1.2+src.0a1b"), None)
    for part in ("scratch", "team-identity"):
        (into / part).mkdir()
    repository.render(wanted.values, into / "scratch", wanted.target)
    return wanted.target


def _deployed(folder: Path, tmp_path: Path, *words: str) -> Documents:
    """What a cluster is given, by kind."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(_KUBECTL)
    (programs / "kubectl").chmod(0o755)
    applied = tmp_path / "applied"
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "APPLIED": str(applied)}
    env = {name: value for name, value in env.items() if name not in ("SIDECAR_IMAGE", "IMAGE", "TAG", "MAKEFLAGS")}
    ended = subprocess.run(
        ["make", "deploy", "TAG=4f2a", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    documents = [document for document in yaml.safe_load_all(applied.read_text()) if document]
    return {document["kind"]: document for document in documents}


def _pod(documents: Documents) -> Any:
    return documents["Deployment"]["spec"]["template"]["spec"]


def _containers(pod: Any) -> Iterator[Any]:
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def _environ(container: Any) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in container.get("env", ())}


def test_the_sidecar_runs_beside_the_service(folder: Path, tmp_path: Path) -> None:
    """A native sidecar, its image beside the service's in the same registry, ready before the service begins."""
    documents = _deployed(folder, tmp_path, "IMAGE=registry.example.org/shop/team-identity")
    pod = _pod(documents)
    (sidecar,) = pod["initContainers"]
    (service,) = pod["containers"]
    assert service["image"] == "registry.example.org/shop/team-identity:4f2a"
    assert sidecar["image"] == "registry.example.org/shop/smartservice-sidecar:1.2"
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"][:4] == ["python", "-m", "sidecar.probe", "ready"]
    assert sidecar["args"] == ["--leave"]


def test_service_and_sidecar_meet(folder: Path, tmp_path: Path) -> None:
    """One folder in memory, one user, one realm, one map, one address."""
    pod = _pod(_deployed(folder, tmp_path))
    (sidecar,), (service,) = pod["initContainers"], pod["containers"]
    ours, theirs = _environ(service), _environ(sidecar)
    assert ours["SIDECAR_DIR"] == theirs["SIDECAR_DIR"] == "/run/smartservice"
    for container in (service, sidecar):
        assert {"name": "sidecar", "mountPath": "/run/smartservice"} in container["volumeMounts"]
        assert not {"runAsUser", "runAsGroup"} & set(container["securityContext"])
    assert {"name": "sidecar", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}} in pod["volumes"]
    assert ours["REALM"] == theirs["REALM"]
    assert ours["ADVERTISE_HOST"] == theirs["ADVERTISE_HOST"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    names = {theirs[name]["secretKeyRef"]["name"] for name in ("ATLAS_URL", "ATLAS_TOKEN")}
    assert names == {"smartservice-sidecar"}
    assert Path(theirs["STATE_DIR"]).is_relative_to("/run/smartservice")


def test_every_setting_is_one_that_the_sidecar_knows(folder: Path, tmp_path: Path) -> None:
    """The variables of the sidecar's container are read by it, and their values are valid."""
    from sidecar.environment import settings_from

    (sidecar,) = _pod(_deployed(folder, tmp_path))["initContainers"]
    told = {name: value for name, value in _environ(sidecar).items() if isinstance(value, str)}
    told |= {"ADVERTISE_HOST": "10.1.2.3", "ATLAS_URL": "https://atlas.example.org", "ATLAS_TOKEN": "x"}
    assert set(told) == set(_environ(sidecar))
    settings = settings_from(told)
    assert settings.realm == "production"
    assert settings.host == "10.1.2.3"
    assert settings.state.is_relative_to("/run/smartservice")
    assert settings.loopback


def test_without_an_image_of_the_sidecar_nothing_of_it_is_left(folder: Path, tmp_path: Path) -> None:
    """`make deploy SIDECAR_IMAGE=` is the service alone: no container, no volume, no variable of the sidecar."""
    documents = _deployed(folder, tmp_path, "SIDECAR_IMAGE=")
    pod = _pod(documents)
    assert "initContainers" not in pod
    assert "sidecar" not in str(documents).lower()
    assert "smartservice-sidecar" not in (tmp_path / "applied").read_text()
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    assert pod["containers"][0]["image"] == "team-identity:4f2a"


@pytest.mark.parametrize("words", [[], ["SIDECAR_IMAGE="], ["SIDECAR_IMAGE=registry.example.org/s:2"]])
def test_a_cluster_would_take_them(folder: Path, tmp_path: Path, words: list[str]) -> None:
    """Names, ports, quantities and variables are written as the rules of Kubernetes ask, and every reference leads somewhere."""
    documents = _deployed(folder, tmp_path, *words)
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= set(documents)
    for document in documents.values():
        assert _LABEL.fullmatch(document["metadata"]["name"])
    for kind in set(documents) & {"Deployment", "Job"}:
        pod = documents[kind]["spec"]["template"]["spec"]
        names = [container["name"] for container in _containers(pod)]
        assert len(names) == len(set(names))
        for container in _containers(pod):
            _check_container(container, {volume["name"] for volume in pod["volumes"]})
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for selector in (
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    ports = {port["name"] for container in _pod(documents)["containers"] for port in container["ports"]}
    assert {port["targetPort"] for port in documents["Service"]["spec"]["ports"]} <= ports


def _check_container(container: Any, volumes: set[str]) -> None:
    assert _LABEL.fullmatch(container["name"])
    assert re.fullmatch(r"[a-z0-9./:_-]+", container["image"])
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    assert all(_PORT_NAME.fullmatch(name) and 0 < number < 65536 for name, number in ports.items())
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container.get(name, {})
        assert probe.get("httpGet", {}).get("port", "http") in {"http", *ports}
        assert all(isinstance(word, str) for word in probe.get("exec", {}).get("command", ()))
        assert probe.get("timeoutSeconds", 1) <= 3
    environ = container.get("env", ())
    assert all(_VARIABLE.fullmatch(entry["name"]) for entry in environ)
    assert all(isinstance(entry.get("value", ""), str) for entry in environ)
    assert len({entry["name"] for entry in environ}) == len(environ)
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for limits in container["resources"].values():
        assert all(_QUANTITY.fullmatch(str(amount)) for amount in limits.values())
    secured = container["securityContext"]
    assert secured["readOnlyRootFilesystem"] is True
    assert secured["allowPrivilegeEscalation"] is False
    assert secured["capabilities"] == {"drop": ["ALL"]}


def test_probes_of_the_sidecar_need_no_port_of_the_pod(folder: Path, tmp_path: Path) -> None:
    """Its health is on a loopback port: a kubelet asks the address of the pod, so the probe is a command inside of it."""
    (sidecar,) = _pod(_deployed(folder, tmp_path))["initContainers"]
    assert "ports" not in sidecar
    assert [name for name in sidecar if name.endswith("Probe")] == ["startupProbe"]
    assert "httpGet" not in sidecar["startupProbe"]
    at_most = float(sidecar["startupProbe"]["exec"]["command"][-1])
    assert at_most < sidecar["startupProbe"]["failureThreshold"] * sidecar["startupProbe"]["periodSeconds"]


def test_on_a_host_others_reach_the_service(folder: Path) -> None:
    """The unit opens the port to the HAProxies of other hosts, joins the group of the sidecar and may write to its folder."""
    unit = (folder / "deploy" / "team-identity.service").read_text()
    host = re.search(r"^Environment=HOST=(\S+)$", unit, re.M)
    assert host is not None
    assert ipaddress.ip_address(host[1]).is_unspecified
    assert unit.index("Environment=HOST=") < unit.index("EnvironmentFile=")
    realm = re.search(r"REALM=(\S+)", unit)
    assert realm is not None
    assert f"Environment=SIDECAR_DIR=/run/smartservice/{realm[1]}\n" in unit
    assert "SupplementaryGroups=smartservice\n" in unit
    assert "ReadWritePaths=-/run/smartservice\n" in unit
    assert "Requires=" not in unit


def test_unit_and_sidecar_agree_on_folder_and_group(folder: Path) -> None:
    """What `sidecar units` writes for the same realm is where the unit of the service looks."""
    from sidecar.units import Place, rendered

    unit = (folder / "deploy" / "team-identity.service").read_text()
    place = Place(("/opt/sidecar",), realm="production", directory=Path("/run/smartservice/production"))
    files = rendered(place)
    assert f"d {place.directory}/announce 3770 smartservice smartservice -" in files["smartservice-tmpfiles.conf"]
    assert f"SIDECAR_DIR={place.directory}\n" in unit
    assert f"SupplementaryGroups={place.user}\n" in unit


def test_the_read_me_says_how_it_meets_the_sidecar(folder: Path) -> None:
    """Three lines: where they meet, what passes between them, how to do without."""
    text = (folder / "README.md").read_text()
    assert "`SIDECAR_DIR`" in text
    assert "`make deploy SIDECAR_IMAGE=`" in text
    assert "`sidecar units`" in text
