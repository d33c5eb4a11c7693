"""The command `sidecar`: what it asks, prints and writes, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from atlas.announcement import Announcement, Carrier, announce, read
from sidecar.admin import Admin
from sidecar.cli import SidecarGroup, sidecar
from sidecar.commands import run as running
from sidecar.facts import OwnInstance
from sidecar.settings import Settings
from sidecar.supervisor import only_one
from sidecar.terminal import EXIT_CODES, Tools
from tests.unit.sidecar.scene import NOW, WELL, FakeSource, guarded, troubled


class Terminal:
    """Runs commands as a person would, in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "s"
        self.environ = {"SIDECAR_DIR": str(self.directory), "STATE_DIR": str(folder), "ATLAS_AUTHOR": "anna"}
        self.now = NOW

    def __call__(self, *words: str | Path, code: int = 0) -> Result:
        tools = Tools(self.environ, clock=lambda: self.now, sleep=self.sleep)
        result = CliRunner().invoke(sidecar, [str(word) for word in words], obj=tools, prog_name="sidecar")
        assert result.exit_code == code, result.output
        return result

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FakeSource]:
    """A sidecar that runs where the terminal looks."""
    made = FakeSource(tmp_path, *troubled())
    server = Admin(made, wall_clock=lambda: NOW).start()
    try:
        yield made
    finally:
        server.close()


# -- the program -------------------------------------------------------------------------------------------------------


def test_help_names_every_command_by_section(terminal: Terminal) -> None:
    """The sections, and each command that this version has, with a line of its own."""
    told = terminal("--help").stdout
    for title, commands in SidecarGroup.sections.items():
        assert f"{title}:" in told
        for name in commands:
            if sidecar.get_command(sidecar.make_context("sidecar", ["--version"], resilient_parsing=True), name):
                assert f"\n  {name} " in told
    assert all(str(code) in told for code in EXIT_CODES)


def test_every_command_of_the_table_is_there(terminal: Terminal) -> None:
    """Each can be imported, is called as the table says, and explains itself."""
    for commands in SidecarGroup.sections.values():
        for name in commands:
            if (Path(running.__file__).parent / f"{commands[name].module.rpartition('.')[2]}.py").exists():
                told = terminal(name, "--help").stdout
                assert told.startswith(f"Usage: sidecar {name}")


def test_a_mistyped_command_is_recognised(terminal: Terminal) -> None:
    """Wrong use: one sentence on stderr, exit code 2."""
    result = terminal("statsu", code=2)
    assert result.stderr == "sidecar: there is no command 'statsu'; did you mean status? See sidecar --help.\n"
    assert terminal("status", "--jsno", code=2).stderr.count("\n") == 1


def test_an_error_is_json_too(terminal: Terminal) -> None:
    """With --json a script finds code, name and message on stdout."""
    error = terminal.json("status", code=5)["error"]
    assert (error["code"], error["name"]) == (5, "unavailable")
    assert "sidecar run" in error["message"]


# -- looking -----------------------------------------------------------------------------------------------------------


def test_status_begins_with_the_sentence(terminal: Terminal, source: FakeSource) -> None:
    """What is wrong and what to do; --json gives the document of HTTP; no colours where no terminal is."""
    told = terminal("status").stdout
    assert told.startswith("wrong  broken is not routed")
    assert "\x1b" not in told
    assert terminal.json("status")["numbers"]["held"] == 2
    assert terminal.json("--dir", terminal.directory, "status")["state"] == "wrong"


def test_status_says_what_passes_through(terminal: Terminal, source: FakeSource) -> None:
    """All services together, and whose the errors are."""
    line = "traffic   12.5 requests/s, 2 under way; since HAProxy was loaded 3,000 with 4 errors: identity 4"
    assert line in terminal("status").stdout.splitlines()


def test_status_of_one_service(terminal: Terminal, source: FakeSource) -> None:
    """Its sentence, what passes through it, its instances; an unknown one is 3 with the near names."""
    told = terminal("status", "identity").stdout
    assert "12.5 requests/s, 2 under way, 3,000 so far, 4 errors" in told
    assert "10.0.0.8:8000  held" in told
    assert "did you mean identity?" in terminal("status", "identiy", code=3).stderr


def test_status_while_haproxy_is_away(terminal: Terminal, source: FakeSource) -> None:
    """Without its rates, and with everything else."""
    source.now_rates = None
    assert terminal.json("status", "identity")["rates"] is None
    assert "traffic" not in terminal("status").stdout


def test_ready_is_for_probes(terminal: Terminal, source: FakeSource) -> None:
    """0 while calls can pass, 1 while not, 5 where nobody is to ask."""
    assert terminal("status", "--ready").stdout.startswith("ready: ")
    source.now_facts = replace(WELL, map_from="none")
    assert terminal("status", "--ready", code=1).stdout.startswith("not ready: ")


def test_an_agent_that_is_away_does_not_hide_haproxy(terminal: Terminal) -> None:
    """The first question of the night, answered: do calls pass?"""
    assert "HAProxy does not answer either." in terminal("status", code=5).stderr


def test_an_agent_that_ends_again_and_again_is_not_to_be_started(terminal: Terminal) -> None:
    """Where a `sidecar up` does that already, its log is the next step."""
    with only_one(terminal.directory):
        told = terminal("status", code=5).stderr
    assert f"A `sidecar up` (process {os.getpid()}) runs and starts it again: its log says why it ended." in told
    assert "starts it again" not in terminal("status", code=5).stderr


def test_another_realm_is_named_where_this_one_has_no_sidecar(terminal: Terminal, source: FakeSource) -> None:
    """Whoever forgot --realm at night is told which sidecars there are beside it."""
    told = terminal("status", "--dir", terminal.folder / "other", code=5).stderr
    assert f"Beside it there is {terminal.directory}." in told


def test_why_explains_and_ends_with_0(terminal: Terminal, source: FakeSource) -> None:
    """A service, an instance, a name that nobody knows."""
    assert "decided by the guard" in terminal("why", "identity", "10.0.0.8:8000").stdout
    assert "bert disabled it" in terminal("why", "teams").stdout
    assert "did you mean identity?" in terminal("why", "identiy").stdout
    assert terminal.json("why", "identiy")["near"] == ["identity"]


# -- operating ---------------------------------------------------------------------------------------------------------


def test_accept_lets_go_and_says_of_what(terminal: Terminal, source: FakeSource) -> None:
    """With a reason, on record; a dry run tells the same and does nothing."""
    assert terminal("accept", "identity", code=2).stderr.startswith("sidecar: Missing option '--why'")
    dry = terminal("accept", "identity", "--why", "rack 3", "--dry-run").stdout
    assert dry.startswith("Would be done: 2 instances of identity let go: 10.0.0.8:8000, 10.0.0.9:8000")
    assert source.told == []
    assert terminal.json("accept", "identity", "--why", "rack 3")["let_go"] == ["10.0.0.8:8000", "10.0.0.9:8000"]
    assert source.told[0][:2] == ("accept", "identity")
    assert source.told[0][2].startswith("anna")
    assert "it holds identity" in terminal("accept", "zzz", "--why", "x", code=3).stderr
    assert "did you mean identity?" in terminal("accept", "identiy", "--why", "x", code=3).stderr


def test_reload_needs_a_reason(terminal: Terminal, source: FakeSource) -> None:
    """It is handed on with who asked."""
    terminal("reload", "--why", "a try", "--dry-run")
    assert source.told == []
    terminal("reload", "--why", "a try")
    assert source.told[0][0] == "reload"
    assert source.told[0][1].startswith("a try (anna")


def test_stop_without_anything_that_runs(terminal: Terminal) -> None:
    """Says so; nothing is signalled."""
    assert "No agent ran; HAProxy goes on." in terminal("stop", "--agent").stdout
    assert "nothing runs" in terminal("stop", "--agent", "--dry-run").stdout


def test_stop_names_the_agent(terminal: Terminal) -> None:
    """The one who holds the lock of the directory."""
    terminal.directory.mkdir()
    with Carrier(terminal.directory, pid=lambda: 2_000_000_000):
        assert "the agent (process 2000000000) ends; HAProxy ends within 30 s" in terminal("stop", "--dry-run").stdout
        assert "of another container" in terminal("stop", "--agent", code=5).stderr


def test_a_token_is_shown_once_and_kept_as_a_hash(terminal: Terminal, tmp_path: Path) -> None:
    """Alone on stdout; the file is for its owner, grows, and never holds the token."""
    path = tmp_path / "tokens"
    assert "SIDECAR_TOKENS" in terminal("token", "create", "orders", code=2).stderr
    terminal.environ["SIDECAR_TOKENS"] = str(path)
    terminal("token", "create", "orders", "--dry-run")
    assert not path.exists()
    first = terminal("token", "create", "orders").stdout.strip()
    path.chmod(0o644)
    path.write_text(path.read_text().rstrip("\n"))  # as somebody's editor left it
    second = terminal.json("token", "create", "billing")["token"]
    assert [line.split() for line in path.read_text().splitlines()] == [
        ["orders", hashlib.sha256(first.encode()).hexdigest()],
        ["billing", hashlib.sha256(second.encode()).hexdigest()],
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "not a service name" in terminal("token", "create", "No One", code=2).stderr


# -- own instances -----------------------------------------------------------------------------------------------------


def test_register_writes_the_announcement_while_no_agent_runs(terminal: Terminal) -> None:
    """And says that one which starts takes it up."""
    told = terminal("register", "billing", "8080", "--health", "/ok", "--version", "2", "--weight", "50").stdout
    found = read(terminal.directory / "announce" / "billing@:8080.json")
    assert found == Announcement("billing", 8080, health="/ok", version="2", weight=50)
    assert "No sidecar runs here now" in told


@pytest.mark.parametrize("host", ["fd00::7", "[fd00::7]"])
def test_an_address_is_taken_with_brackets_and_without(host: str, terminal: Terminal) -> None:
    """As in a URL, or as `ip addr` shows it."""
    path = terminal.json("register", "billing", "8080", "--host", host)["file"]
    assert read(Path(path)).host == "fd00::7"


def test_register_says_what_stands_between_ready_and_the_map(terminal: Terminal, source: FakeSource) -> None:
    """A program that is well, on a host whose lease the map refuses, is told the reason of the map."""
    own = OwnInstance("orders", "10.0.0.7:9000", "ready", "is ready", NOW)
    source.now_facts = replace(WELL, own=(own,), lease_failure="This token is not known here.")
    with Carrier(terminal.directory):
        told = terminal("register", "orders", "9000", "--no-health", "--wait", "1").stdout
    assert "it is ready, and the map takes nothing of this host: This token is not known here. It is asked on." in told


def test_register_says_when_it_is_in_the_map(terminal: Terminal, source: FakeSource) -> None:
    """It waits until calls reach it, or tells what its check finds."""
    with Carrier(terminal.directory):
        assert terminal.json("register", "identity", "8000")["state"] == "in the map"
        own = OwnInstance("orders", "10.0.0.7:9000", "not ready", "the connection was refused", NOW)
        source.now_facts = type(WELL)(own=(own,))
        told = terminal("register", "orders", "9000", "--no-health", "--wait", "1").stdout
        assert "It is not in the map yet: its check finds it not ready: the connection was refused." in told
        assert "has not taken it up yet" in terminal("register", "new", "9001", "--wait", "1").stdout
        assert terminal.json("register", "new", "9001", "--wait", "0")["state"] == "announced"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["No Name", "80"], "not a service name"),
        (["billing", "0"], "0 is not in the range"),
        (["billing", "80", "--health", "ok"], "begins with a slash"),
        (["billing", "80", "--health", "/ok", "--no-health"], "exclude each other"),
        (["billing", "80", "--host", "a b"], "a host name or an address"),
    ],
)
def test_what_cannot_be_registered_is_wrong_use(terminal: Terminal, words: list[str], told: str) -> None:
    """Nothing is written."""
    assert told in terminal("register", *words, code=2).stderr
    assert not terminal.directory.exists()


def test_unregister_takes_back_what_was_announced(terminal: Terminal) -> None:
    """All of a name or one port, a file that cannot be read too; what is not there is 3 with what is."""
    for port in (8080, 8081):
        announce(terminal.directory, Announcement("billing", port))
    broken = terminal.directory / "announce" / "orders@:9000.json"
    broken.write_text("{")
    assert "it is on 8080, 8081" in terminal("unregister", "billing", "80", code=3).stderr
    assert "did you mean billing?" in terminal("unregister", "biling", code=3).stderr
    terminal("unregister", "billing", "8080", "--dry-run")
    assert len(list(broken.parent.iterdir())) == 3
    terminal("unregister", "billing", "8080")
    assert len(terminal.json("unregister", "billing")["files"]) == 1
    terminal("unregister", "orders")
    assert list(broken.parent.iterdir()) == []


# -- render and run ----------------------------------------------------------------------------------------------------

WORLD: dict[str, Any] = {
    "complete": True,
    "position": "abc.3.5",
    "items": [
        ["service", "identity", {"name": "identity"}],
        ["instance", "identity/10.0.0.7:8000", {"service": "identity", "host": "10.0.0.7", "port": 8000}],
    ],
}
EXPORT = [
    {"atlas": "export", "format": 1, "revision": 1, "exported_at": 0.0},
    {
        "change": {
            "revision": 1,
            "at": 1.0,
            "author": "anna",
            "why": "",
            "id": "1",
            "edits": [
                ["service", "identity", None, {"name": "identity"}],
                [
                    "ruling",
                    "identity/10.0.0.7:8000",
                    None,
                    {"service": "identity", "host": "10.0.0.7", "port": 8000, "state": "disabled"},
                ],
            ],
        }
    },
    {
        "lease": {
            "id": "h",
            "incarnation": "x",
            "ttl_seconds": 15,
            "opened_at": 1.0,
            "instances": [{"service": "identity", "host": "10.0.0.7", "port": 8000}],
        }
    },
    {"end": 3},
]


def test_render_gives_the_files_of_any_map(terminal: Terminal, tmp_path: Path) -> None:
    """Printed, as JSON or into a folder; nothing of the sidecar's own directory is touched."""
    path = tmp_path / "map.json"
    path.write_text(json.dumps(WORLD))
    told = terminal("render", "--map", path).stdout
    assert "backend identity" in told
    assert "10.0.0.7:8000" in told
    assert "# maps/routes.map" in told
    document = terminal.json("render", "--map", path)
    assert document["services"][0]["instances"][0]["standing"] == "in"
    terminal("render", "--map", path, "--to", tmp_path / "out")
    assert (tmp_path / "out" / "haproxy.cfg").read_text() == document["files"]["haproxy.cfg"]
    assert not terminal.directory.exists()


def test_render_looks_names_up_from_here(terminal: Terminal, tmp_path: Path) -> None:
    """A name that has an address is routed to it; one that can have none is told, and the others go on."""
    hosts = ("localhost", "x" * 64)
    instances = [
        ["instance", f"identity/{host}:8000", {"service": "identity", "host": host, "port": 8000}] for host in hosts
    ]
    path = tmp_path / "map.json"
    path.write_text(json.dumps({**WORLD, "items": [*WORLD["items"], *instances]}))
    document = terminal.json("render", "--map", path)
    standings = {one["address"]: one["standing"] for one in document["services"][0]["instances"]}
    assert standings["localhost:8000"] == "in"
    assert standings[f"{hosts[1]}:8000"] in ("quarantined", "out")
    assert "127.0.0.1:8000" in document["files"]["haproxy.cfg"]


def test_render_reads_an_export_and_says_why(terminal: Terminal, tmp_path: Path) -> None:
    """Rulings of its changes, instances of its leases."""
    path = tmp_path / "realm.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in EXPORT))
    assert (
        "10.0.0.7:8000 takes no calls, decided by an operator's word"
        in terminal("render", "--map", path, "--why").stdout
    )


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[]", "{}", '{"items": 7, "position": "a.1.1"}', json.dumps(EXPORT[0])]
)
def test_a_file_that_holds_no_map_is_told(terminal: Terminal, tmp_path: Path, content: str) -> None:
    """Wrong use, with what is understood; a file that is not there is 3."""
    path = tmp_path / "map.json"
    path.write_text(content)
    assert "holds no map that is understood here" in terminal("render", "--map", path, code=2).stderr
    assert "There is no file" in terminal("render", "--map", tmp_path / "none", code=3).stderr


def test_run_tells_every_mistake_at_once(terminal: Terminal) -> None:
    """Of options and of the environment, each by its own name; it ends with 2, so that nobody starts it again in vain."""
    terminal.environ.update(SIDECAR_ADMIN_PORT="x", SIDECAR_PROT="1", ZONE="a")
    told = terminal("run", "--port", "0", "--realm", "staging", "--spare-backends", "many", code=2).stderr
    assert "--port is '0'" in told
    assert "--spare-backends is 'many'" in told
    assert "SIDECAR_ADMIN_PORT is 'x'" in told
    assert "did you mean SIDECAR_PORT?" in told
    assert "ATLAS_URL is not set" in told
    assert not terminal.directory.exists()


def test_run_says_what_is_in_the_way_of_its_directory(terminal: Terminal, tmp_path: Path) -> None:
    """A file where the directory is to be is a mistake in the settings, told before anything starts."""
    (tmp_path / "file").write_text("")
    told = terminal("run", "--dir", tmp_path / "file" / "s", code=2).stderr
    assert f"{tmp_path / 'file'} is no directory. Set SIDECAR_DIR to another one." in told


def test_run_has_an_option_for_each_setting_but_secrets(terminal: Terminal) -> None:
    """Each names its variable and what it is else; a token is no option, since others can see a command line."""
    told = " ".join(terminal("run", "--help").stdout.split())
    for name in (
        "ATLAS_URL",
        "ADVERTISE_HOST",
        "ZONE",
        "SIDECAR_PORT",
        "SIDECAR_MAX_CONNECTIONS",
    ):
        assert f"[{name}" in told
    assert "Which sidecar; else SIDECAR_DIR" in told
    assert "[SIDECAR_PORT, else 4000]" in told
    assert "ATLAS_TOKEN]" not in told


def test_the_first_line_says_where_and_what_to_try() -> None:
    """A command that can be copied, for the port and for the socket alone."""
    settings = Settings(Path("/run/s"), Path("/var/s"))
    assert "curl -H 'Smart-Service: NAME' http://127.0.0.1:4000/" in running.welcome(settings)
    alone = Settings(Path("/run/s"), Path("/var/s"), loopback=False, admin_port=0)
    assert "curl -H 'Smart-Service: NAME' --unix-socket /run/s/calls.sock http://localhost/" in running.welcome(alone)


def test_check_tells_settings_that_cannot_be(terminal: Terminal) -> None:
    """As findings, the rest comes once they are right; exit code 1."""
    terminal.environ["SIDECAR_PORT"] = "x"
    (found,) = terminal.json("check", code=1)
    assert (found["level"], found["topic"]) == ("wrong", "settings")
    assert "SIDECAR_PORT is 'x'" in found["says"]


def test_guards_of_a_calm_sidecar(terminal: Terminal, source: FakeSource) -> None:
    """Where the guard holds nothing, accept says so and ends with 3."""
    source.now_facts, source.now_plan = WELL, guarded()
    assert os.path.exists(source.settings.control_socket)
    assert "holds nothing of billing" in terminal("accept", "billing", "--why", "x", code=3).stderr
