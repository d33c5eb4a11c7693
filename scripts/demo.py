"""What the toolkit does, shown in half a minute: generate a service, run it, call it, change it, stop it under load.

make demo                      with the embedded default: SQLite, no other server
make demo DEMO_ARGS=--keep     leave the generated service behind, to look at
"""

from __future__ import annotations

import argparse
import json
import os
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

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
WITHOUT_SERVICE = {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the generated service in .demo/hello")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="where .demo is made (default: here)")
    wanted = parser.parse_args()
    folder = wanted.into / ".demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        Demo(folder).run()
    finally:
        if not wanted.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if wanted.keep:
        print(f"\nThe service is in {folder / 'hello'}: cd there and try `make help`.")
    return 0


class Demo:
    """One run, step by step; each step prints what it shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = folder / "hello"
        self.port = free_port()
        self.overrides = folder / "overrides.json"
        self.base = f"http://127.0.0.1:{self.port}"
        self.overrides.write_text("{}")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in WITHOUT_SERVICE},
            "PORT": str(self.port),
            "CONFIG_FILE": str(self.overrides),
            "STATE_DIR": str(self.folder / "state"),
            "PROBE_INTERVAL": "0.5",
        }

    def run(self) -> None:
        say(1, "Generate a service: repository, locked environment, green tests, answered health check")
        subprocess.run(
            [BIN / "generate-service", "hello", "--with", "db", "--owner", "demo", "--into", self.folder], check=True
        )
        say(2, "Bring its database up and start it under gunicorn, as in production")
        self.flask("db", "upgrade")
        with (self.folder / "hello.log").open("w") as log:
            gunicorn = subprocess.Popen(
                [self.service / ".venv/bin/gunicorn"], cwd=self.service, env=self.environment, stdout=log, stderr=log
            )
        try:
            self.wait_ready(gunicorn)
            self.call()
            self.override()
            self.stop_under_load(gunicorn)
        finally:
            if gunicorn.poll() is None:
                gunicorn.kill()
            gunicorn.wait()

    def wait_ready(self, gunicorn: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if gunicorn.poll() is not None:
                break
            try:
                if requests.get(f"{self.base}/healthcheck/ready", timeout=1).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise SystemExit(f"the service did not start:\n{(self.folder / 'hello.log').read_text()}")

    def call(self) -> None:
        say(3, "Call it: its example resource, its health, an error as problem+json")
        self.show("POST", "/greetings", json={"name": "world"})
        self.show("GET", "/greetings")
        self.show("POST", "/greetings", json={"nam": "typo"})
        self.show("GET", "/healthcheck")

    def override(self) -> None:
        say(4, "Change a setting while it runs: no restart, and each request sees one version")
        self.overrides.write_text(json.dumps({"SALUTATION": {"value": "Good evening", "author": "demo"}}))
        end, in_a_row = time.monotonic() + 5, 0
        while in_a_row < 10:  # each worker looks for itself, within half a second
            message = requests.post(f"{self.base}/greetings", json={"name": "again"}, timeout=5).json()["message"]
            in_a_row = in_a_row + 1 if message.startswith("Good") else 0
            if time.monotonic() > end:
                raise SystemExit("the override did not arrive: this is a fault in the toolkit")
            time.sleep(0.05)
        self.show("POST", "/greetings", json={"name": "world"})
        self.flask("config", "explain", "SALUTATION")

    def flask(self, *words: str) -> None:
        print(f"  $ flask {' '.join(words)}", flush=True)
        subprocess.run([self.service / ".venv/bin/flask", *words], cwd=self.service, env=self.environment, check=True)

    def stop_under_load(self, gunicorn: subprocess.Popen[bytes]) -> None:
        say(5, "Stop it with SIGTERM while it is called: readiness turns red first, nobody is turned away")
        outcome = {"answered": 0, "lost": 0}
        red = threading.Event()

        def load() -> None:
            while not red.is_set():
                try:
                    ok = requests.get(f"{self.base}/greetings", timeout=5).status_code == 200
                except requests.RequestException:
                    ok = False
                outcome["answered" if ok else "lost"] += 1

        def probe() -> None:
            """What a load balancer does: two red answers in a row, and it sends no more."""
            failures = 0
            while failures < 2:
                time.sleep(0.5)
                ready = requests.get(f"{self.base}/healthcheck/ready", timeout=1).status_code
                failures = failures + 1 if ready != 200 else 0
            red.set()

        threads = [threading.Thread(target=load) for _ in range(4)] + [threading.Thread(target=probe)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        gunicorn.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        gunicorn.wait(60)
        print(f"  requests answered: {outcome['answered']}, lost: {outcome['lost']}")
        if outcome["lost"]:
            raise SystemExit("requests were lost: this is a fault in the toolkit")
        say(6, "Done: a service that starts, answers, adapts and stops as it should")

    def show(self, method: str, path: str, **options: Any) -> None:
        reply = requests.request(method, self.base + path, timeout=5, **options)
        text = reply.text.strip()
        print(f"  {method} {path} -> {reply.status_code} {reply.headers['Content-Type']}")
        print(f"    {text if len(text) <= 240 else text[:240] + ' ...'}")


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
