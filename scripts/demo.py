"""What the toolkit does, shown in a minute: two services, one calls the other by name, both are changed while they run, and one
is replaced under load. Then the same on three hosts with a sidecar each: a rolling deploy, a killed instance, a killed Atlas.
No request is lost. (The second half needs HAProxy, and is left out where there is none.)

make demo                      generate, run, call, change, replace; hosts, deploy, kill
make demo DEMO_ARGS=--stay     at the end, leave everything running until Enter: there is a page to look at
make demo DEMO_ARGS=--keep     leave the two services behind, to look at
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import requests

from scripts.demo_hosts import Calls, Hosts
from sidecar.environment import haproxy_program

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
NOT_HANDED_ON = {
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE",
    "ATLAS_URL",
    "ATLAS_TOKEN",
    "REALM",
    "CONFIG_FILE",
}

WELCOMES = '''"""Welcome somebody, with the greeting that the service hello has for everybody."""

import smartclient as requests
from flask_restful import Resource


class Welcomes(Resource):
    """/welcomes/<name>"""

    def get(self, name: str) -> dict[str, str]:
        """Ask hello, by its name."""
        greeting = requests.post("service://hello/greetings", json={"name": name})
        greeting.raise_for_status()
        return {"welcome": greeting.json()["message"]}
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the generated services in .demo")
    parser.add_argument("--stay", action="store_true", help="run on at the end until Enter is pressed")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="where .demo is made (default: here)")
    wanted = parser.parse_args()
    folder = wanted.into / ".demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    demo = Demo(folder)
    try:
        demo.run()
        demo.on_hosts(stay=wanted.stay)
    finally:
        demo.end()
        if not wanted.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if wanted.keep:
        print(f"\nThe services are in {folder}: cd to one and try `make help`.")
    return 0


class Demo:
    """One run, step by step; each step prints what it shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.hosts: Hosts | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON},
            "STATE_DIR": str(self.folder / "state"),
            "PROBE_INTERVAL": "0.5",
            "DRAIN_SECONDS": "2",
        }

    def run(self) -> None:
        self.generate()
        first, shop = self.start_both()
        self.call(shop)
        self.override(shop)
        self.replace_under_load(first, shop)
        self.end()

    def on_hosts(self, *, stay: bool) -> None:
        if shutil.which(haproxy_program(os.environ)) is None:
            say(7, "Done. With HAProxy here (Debian: apt-get install haproxy) the demo goes on with hosts and sidecars")
            return
        self.environment["DEMO_MAP"] = f"sqlite:///{next((self.folder / 'state').rglob('*.db'))}"
        self.hosts = hosts = Hosts(self.folder / "hosts", self.environment, free_port)
        say(
            7,
            "Three hosts: on each a sidecar keeps a HAProxy in step with the map, which `atlas serve` holds for all of them",
        )
        hosts.start()
        hellos = [hosts.start_service("hello", host) for host in hosts.names]
        shops = [hosts.start_service("shop", host) for host in hosts.names[:2]]
        for name, address in (*(("hello", one) for one in hellos), *(("shop", one) for one in shops)):
            hosts.wait_called(name, address)
        self.environment = {**hosts.environment_of("h1"), "COLUMNS": "110"}
        self.command("sidecar", "status")
        say(
            8, "Deploy: every instance of hello is drained, restarted, waited for. Nothing is configured, nobody sleeps"
        )
        restart = f"kill $(cat {hosts.pid_file('hello', '{port}')})"
        with Calls(hosts.ports["h2"], "shop", "/welcomes/Ada") as calls:
            self.command("atlas", "roll", "hello", "--command", restart, "--why", "a new release")
        self.check(calls)
        say(9, "Kill one without a word: HAProxy asks another one, the sidecar of its host takes it out of the map")
        with Calls(hosts.ports["h2"], "hello", "/greetings") as calls:
            hosts.kill("hello", hellos[2])
            self.wait(lambda: not hosts.is_called("hello", hellos[2]), "the dead instance left out")
            self.command("sidecar", "why", "hello", hellos[2])
            self.wait(lambda: hosts.is_called("hello", hellos[2]), "the instance back", seconds=60)
        self.check(calls)
        say(10, "Kill Atlas: what is known is called on, and every screen says so")
        with Calls(hosts.ports["h2"], "shop", "/welcomes/Ada") as calls:
            hosts.kill_atlas()
            time.sleep(2)
            self.command("sidecar", "status", "hello")
        self.check(calls)
        say(11, "Done: services that find each other, follow one map, and come and go without losing a request")
        if stay:
            input(f"\nLook at http://127.0.0.1:{hosts.pages['h1']}/ and press Enter to end. ")

    def check(self, calls: Calls) -> None:
        if calls.lost:
            raise SystemExit(f"calls were lost, the first: {calls.lost[0]}: this is a fault in the toolkit")

    def generate(self) -> None:
        say(
            1, "Generate two services: repository, locked environment, green tests; each takes a free port from the map"
        )
        for name, *more in (("hello", "--with", "db"), ("shop",)):
            self.command("generate-service", name, *more, "--owner", "demo", "--into", self.folder, shown=False)
        say(2, "Let shop call hello by its name: one new file, and one line in app.py")
        package = self.folder / "shop" / "shop"
        (package / "welcomes.py").write_text(WELCOMES)
        app = (package / "app.py").read_text()
        app = app.replace(
            "    return app\n", '    app.api.add_resource(Welcomes, "/welcomes/<name>")\n    return app\n'
        )
        app = app.replace("from shop.greetings", "from shop.welcomes import Welcomes\nfrom shop.greetings")
        (package / "app.py").write_text(app)
        print("\n".join(f"  {line}" for line in WELCOMES.splitlines()[2:]))

    def start_both(self) -> tuple[Service, Service]:
        say(3, "Start both under gunicorn, as in production. They register themselves; nothing else runs here")
        self.command(self.folder / "hello/.venv/bin/flask", "db", "upgrade", cwd=self.folder / "hello", shown=False)
        hello, shop = self.start("hello"), self.start("shop")
        self.wait(lambda: self.known("hello") and self.known("shop"), "both in the map")
        self.command("atlas", "ls")
        return hello, shop

    def call(self, shop: Service) -> None:
        say(4, "Call: shop asks hello, wherever that is; errors are problem+json; health tells the truth")
        shop.show("GET", "/welcomes/Ada")
        shop.show("GET", "/nothing-here")
        shop.show("GET", "/healthcheck")

    def override(self, shop: Service) -> None:
        say(5, "Change a setting of hello in the map: no restart, every worker, each request sees one version")
        self.command("atlas", "set", "hello", "SALUTATION", "Good evening", "--why", "it is late")
        end, in_a_row = time.monotonic() + 5, 0
        while in_a_row < 10:
            in_a_row = in_a_row + 1 if shop.get("/welcomes/Ada").json().get("welcome") == "Good evening, Ada!" else 0
            if time.monotonic() > end:
                raise SystemExit("the override did not arrive: this is a fault in the toolkit")
        shop.show("GET", "/welcomes/Ada")
        self.command(
            self.folder / "hello/.venv/bin/flask", "config", "explain", "SALUTATION", cwd=self.folder / "hello"
        )

    def replace_under_load(self, first: Service, shop: Service) -> None:
        say(6, "Replace the instance of hello while shop is called: it drains in the map first, then it leaves")
        second = self.start("hello", port=free_port())
        self.wait(lambda: f":{second.port}" in self.known("hello"), "the new instance in the map")
        outcome = {"answered": 0, "lost": 0}
        done = threading.Event()

        def load() -> None:
            while not done.is_set():
                try:
                    ok = shop.get("/welcomes/Ada").status_code == 200
                except requests.RequestException:
                    ok = False
                outcome["answered" if ok else "lost"] += 1

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        first.process.send_signal(signal.SIGTERM)
        first.process.wait(60)
        time.sleep(0.5)
        done.set()
        for thread in threads:
            thread.join()
        self.command("atlas", "ls")
        print(f"  calls answered: {outcome['answered']}, lost: {outcome['lost']}")
        if outcome["lost"]:
            raise SystemExit("calls were lost: this is a fault in the toolkit")

    def start(self, name: str, port: int | None = None) -> Service:
        folder = self.folder / name
        environment = {**self.environment, **({"PORT": str(port)} if port else {})}
        log = self.folder / f"{name}-{port or 'first'}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [folder / ".venv/bin/gunicorn"], cwd=folder, env=environment, stdout=output, stderr=output
            )
        self.running.append(process)
        service = Service(process, port or _port_of(folder))
        self.wait(service.is_ready, f"{name} ready", log)
        return service

    def known(self, name: str) -> str:
        """What the map says of the instances of a service."""
        asked = subprocess.run(
            [BIN / "atlas", "show", name, "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        return asked.stdout if '"host"' in asked.stdout else ""

    def command(self, program: str | Path, *words: str | Path, cwd: Path | None = None, shown: bool = True) -> None:
        path = BIN / program if isinstance(program, str) else program
        if shown:
            print(f"  $ {path.name} {shlex.join(str(word) for word in words)}", flush=True)
        done = subprocess.run([path, *words], cwd=cwd, env=self.environment, check=False)
        if done.returncode:
            raise SystemExit(f"{path.name} ended with {done.returncode}: this is a fault in the toolkit")

    def wait(self, condition: Any, what: str, log: Path | None = None, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                told = f":\n{log.read_text()}" if log else ""
                raise SystemExit(f"{what}: not within {seconds:g} s{told}")
            time.sleep(0.05)

    def end(self) -> None:
        if self.hosts is not None:
            self.hosts.end()
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # nobody calls any more: no drain
        for process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Service:
    """One running service."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def is_ready(self) -> bool:
        try:
            return self.get("/healthcheck/ready").ok
        except requests.RequestException:
            return False

    def show(self, method: str, path: str, **options: Any) -> None:
        reply = requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=10, **options)
        text = reply.text.strip()
        print(f"  {method} {path} -> {reply.status_code} {reply.headers['Content-Type']}")
        print(f"    {text if len(text) <= 240 else text[:240] + ' ...'}")


def _port_of(folder: Path) -> int:
    """Which port the generator has given to a service."""
    line = next(line for line in (folder / ".service.toml").read_text().splitlines() if line.startswith("port"))
    return int(line.partition("=")[2])


def say(number: int, text: str) -> None:
    print(f"\n{number}. {text}", flush=True)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
