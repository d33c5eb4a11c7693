"""How a sidecar runs: one line for each setting, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a sidecar is told from outside. Its repr shows no token."""

    directory: Path
    """Sockets, HAProxy's files and the announcements of this host's instances: see `smartrealm.places.sidecar_directory`."""
    state: Path
    """Where the map is kept for a start without Atlas."""
    realm: str = "local"
    atlas_url: str | None = None
    atlas_token: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    """How others reach this host: the address in the map of the instances that name none."""
    zone: str = ""
    port: int = 4000
    """The loopback port on which every service is called."""
    socket: bool = True
    """Whether services may also be called through `calls.sock` in the directory."""
    loopback: bool = True
    """Whether the loopback port is opened; off where only the unix socket may be used."""
    admin_port: int = 4001
    """The loopback port of the page, the metrics and the health; 0 for none."""
    tokens_file: Path | None = None
    """Who may call: lines of `caller SHA-256-of-the-token`. None: every process of this host."""
    salt: str = ""
    """Of the buckets of a split; empty: the realm."""
    key_headers: tuple[str, ...] = ("Smart-User", "X-User-Id")
    """Which headers name the one who is put into a bucket; the first that is there counts."""
    key_cookies: tuple[str, ...] = ("session",)
    haproxy: str = "haproxy"
    """The program, by name or path."""
    spare_backends: int = 0
    """Backends kept free for services that are new; 0: a tenth of the services, and at least forty."""
    max_connections: int = 20_000
    reload_seconds: float = 60.0
    """The least time between two reloads; the first one waits up to a tenth of it (splay)."""
    compare_seconds: float = 30.0
    """How often what HAProxy knows is compared with what it should."""
    ttl_seconds: float = 15.0
    """After which the lease of this host ends when the sidecar is silent."""
    check_seconds: float = 1.0
    """How often each of this host's own instances is asked whether it is ready."""

    @property
    def run_url(self) -> str:
        """Under which services are called."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> Path:
        """Where the planner's memory survives a restart of the agent."""
        return self.state / "sidecar-memory.json"

    @property
    def announcements(self) -> Path:
        return self.directory / "announce"

    @property
    def control_socket(self) -> Path:
        """Where the command asks the agent."""
        return self.directory / "agent.sock"

    @property
    def calls_socket(self) -> Path:
        return self.directory / "calls.sock"

    @property
    def proxy_config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def proxy_maps(self) -> Path:
        return self.directory / "maps"

    @property
    def runtime_socket(self) -> Path:
        return self.directory / "haproxy.sock"

    @property
    def master_socket(self) -> Path:
        return self.directory / "master.sock"

    @property
    def events_socket(self) -> Path:
        """Where HAProxy tells that a server went up or down."""
        return self.directory / "events.sock"

    @property
    def exporter_socket(self) -> Path:
        """Where HAProxy's own metrics are read."""
        return self.directory / "metrics.sock"
