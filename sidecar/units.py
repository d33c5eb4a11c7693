"""What a host, an image or a pod needs to run the sidecar: systemd units, a Dockerfile, the part of a Kubernetes manifest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

Standing = Literal["new", "same", "differs"]

CONTAINER_USER = 10001
"""Also the user of the generated services: in a pod both write to one volume."""


@dataclass(frozen=True)
class Place:
    """Where the sidecar of a host runs, and as whom."""

    program: tuple[str, ...]
    """What is called: `("/opt/sidecar/bin/sidecar",)`."""
    realm: str = "local"
    user: str = "smartservice"
    """User and group; services of the host join the group."""
    directory: Path = Path("/run/smartservice/local")
    state: Path = Path("/var/lib/smartservice")
    settings_file: Path = Path("/etc/smartservice/sidecar.env")
    version: str = ""
    """Of the toolkit, for the image; empty: the newest."""
    stop_seconds: int = 15

    @property
    def homes(self) -> str:
        """What systemd lets the units see of the homes: nothing, unless the program itself lives there."""
        in_a_home = any(Path(word).is_relative_to(home) for word in self.program[:1] for home in ("/home", "/root"))
        return "read-only" if in_a_home else "yes"


def rendered(place: Place) -> dict[str, str]:
    """The files by name."""
    values = {
        "command": " ".join(map(_word, place.program)),
        "realm": place.realm,
        "user": place.user,
        "directory": str(place.directory),
        "folders": "\n".join(_folders(place)),
        "state": str(place.state),
        "settings": str(place.settings_file),
        "homes": place.homes,
        "stop": str(place.stop_seconds),
        "package": f"smartservice=={place.version}" if place.version else "smartservice",
        "tag": place.version or "latest",
        "uid": str(CONTAINER_USER),
    }
    values["hardening"] = Template(_HARDENING).substitute(values)
    values["shared"] = Template(_SHARED).substitute(values)
    return {name: Template(text).substitute(values) for name, text in _FILES.items()}


def _folders(place: Place) -> list[str]:
    """How systemd makes the two folders, or lets the units write to those that somebody else has made."""
    lines = []
    if place.directory.is_relative_to("/run"):
        lines += [f"RuntimeDirectory={place.directory.relative_to('/run')}", "RuntimeDirectoryMode=0750"]
        lines += ["# Both units and the services of the host meet in it: it outlives each of them."]
        lines += ["RuntimeDirectoryPreserve=yes"]
    else:
        lines += [f"ReadWritePaths={place.directory}"]
    if place.state.is_relative_to("/var/lib"):
        lines += [f"StateDirectory={place.state.relative_to('/var/lib')}", "StateDirectoryMode=0700"]
    else:
        lines += [f"ReadWritePaths={place.state}"]
    return lines


def _word(text: str) -> str:
    """A word of ExecStart: systemd expands % and $ and splits at spaces."""
    text = text.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text


def standing(folder: Path, files: Mapping[str, str]) -> dict[str, Standing]:
    """What would become of each file in this folder. Reads, writes nothing."""
    found: dict[str, Standing] = {}
    for name, text in files.items():
        try:
            found[name] = "same" if (folder / name).read_text() == text else "differs"
        except FileNotFoundError:
            found[name] = "new"
        except (OSError, UnicodeDecodeError):
            found[name] = "differs"
    return found


_SHARED = """\
User=$user
Group=$user
# Others read what is written here (the group: how calls go); nobody but $user writes.
UMask=0027
Environment=REALM=$realm SIDECAR_DIR=$directory STATE_DIR=$state PYTHONDONTWRITEBYTECODE=1
# ATLAS_URL, ATLAS_TOKEN (atlas token create host NAME prints one), ADVERTISE_HOST and so on.
EnvironmentFile=-$settings
"""

_HARDENING = """\
$folders
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=$homes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
CapabilityBoundingSet=
AmbientCapabilities="""

_PROXY = """\
# HAProxy, through which the services of this host call others. Written by `sidecar units`.
[Unit]
Description=HAProxy of the sidecar
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
# Renders a file from the map on disk when there is none, then becomes HAProxy.
ExecStart=$command proxy --systemd
# Takes up another HAProxy program with calls under way; the agent reloads by itself when it must.
ExecReload=/bin/kill -USR2 $$MAINPID
Restart=always
RestartSec=100ms
# USR1 to the master: no new calls, those under way end.
KillMode=mixed
KillSignal=SIGUSR1
SuccessExitStatus=143
TimeoutStopSec=$stop
TimeoutStartSec=60
# Two for each call, one for each server that is checked.
LimitNOFILE=131072
OOMScoreAdjust=-500
$shared
$hardening

[Install]
WantedBy=multi-user.target
"""

_AGENT = """\
# The agent: keeps HAProxy in step with the map and speaks in the map for this host. Written by `sidecar units`.
[Unit]
Description=Agent of the sidecar
# Wants, not Requires: either is started again and upgraded while the other one goes on.
Wants=network-online.target smartservice-proxy.service
After=network-online.target smartservice-proxy.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=$command run --proxy external
Restart=always
RestartSec=1
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec=$stop
LimitNOFILE=8192
$shared
$hardening

[Install]
WantedBy=multi-user.target
"""

_TMPFILES = """\
# Made at boot, before any service: a service that is started first announces itself all the same.
# Whoever is in the group enters; in announce/ each one writes its own files (sticky) for the group to see (setgid).
d $directory 0750 $user $user -
d $directory/announce 3770 $user $user -
"""

_SYSUSERS = """\
# The user of the sidecar; its group is that of the services which may call others and announce themselves.
u $user - "Smartservice sidecar" $state
"""

_DOCKERFILE = """\
# syntax=docker/dockerfile:1
# The sidecar as an image. `sidecar up` is its first process: HAProxy and the agent beside each other.
FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
# The sidecar needs click and, to ask Atlas, urllib3: nothing else. Another place to take it from: --build-arg
# SMARTSERVICE=URL, and a private index: docker build --secret id=pip,src=$$HOME/.config/pip/pip.conf; it stays in no layer.
ARG SMARTSERVICE=$package
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \\
    pip install --no-cache-dir click urllib3 && pip install --no-cache-dir --no-deps "$$SMARTSERVICE"
RUN install -d -m 0750 -o $uid -g $uid /run/smartservice /var/lib/smartservice
ENV SIDECAR_DIR=/run/smartservice STATE_DIR=/var/lib/smartservice PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER $uid:$uid
# The map that is kept for a start without Atlas.
VOLUME ["/var/lib/smartservice"]
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["python", "-m", "sidecar.probe", "ready"]
ENTRYPOINT ["sidecar", "up"]
"""

_KUBERNETES = """\
# What a pod needs for a sidecar of its own. Manifests of generated services have it already.
# A Deployment to be patched: kubectl patch deployment NAME --patch-file kubernetes.yaml
spec:
  template:
    spec:
      # The drain of the service and its GRACEFUL_SECONDS, then $stop s of the sidecar, which is stopped after it.
      terminationGracePeriodSeconds: 60
      initContainers:
        - name: sidecar
          image: smartservice-sidecar:$tag
          # Native sidecar (Kubernetes 1.29): started before the containers of the pod, stopped after them.
          restartPolicy: Always
          args: [--leave]
          # Its token is that of the pods: atlas token create host 10.42.0.0/16, the network that they get their addresses from.
          env:
            - {name: REALM, value: $realm}
            - {name: SIDECAR_DIR, value: /run/smartservice}
            - {name: STATE_DIR, value: /run/smartservice/state}
            - {name: ADVERTISE_HOST, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
            - {name: ATLAS_URL, valueFrom: {secretKeyRef: {name: smartservice-sidecar, key: ATLAS_URL}}}
            - {name: ATLAS_TOKEN, valueFrom: {secretKeyRef: {name: smartservice-sidecar, key: ATLAS_TOKEN, optional: true}}}
          # The pod's own containers start once calls find their way; without Atlas after half a minute all the same.
          startupProbe:
            exec: {command: [python, -m, sidecar.probe, ready, --at-most, "30"]}
            periodSeconds: 1
            timeoutSeconds: 3
            failureThreshold: 60
          resources:
            requests: {cpu: 50m, memory: 96Mi}
            # A realm of 1,000 services: 80 MB of HAProxy, twice while it reloads, and 100 MB of the agent.
            limits: {memory: 384Mi}
          securityContext:
            runAsNonRoot: true
            runAsUser: $uid
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: sidecar, mountPath: /run/smartservice}
      # In each container that calls others or is called: SIDECAR_DIR=/run/smartservice, this volume, and the same user.
      volumes:
        - {name: sidecar, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
"""

_FILES = {
    "smartservice-proxy.service": _PROXY,
    "smartservice-sidecar.service": _AGENT,
    "smartservice-tmpfiles.conf": _TMPFILES,
    "smartservice-sysusers.conf": _SYSUSERS,
    "Dockerfile": _DOCKERFILE,
    "kubernetes.yaml": _KUBERNETES,
}
