"""Settings that are started before the process forks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, sys, threading, time, types, warnings
from smartconfig import FileSource, load

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of a fork with threads: that is the test
path = sys.argv[1]

def write(number):
    with open(path + ".new", "w") as file:
        json.dump({"NUMBER": number}, file)
    os.replace(path + ".new", path)

config = types.ModuleType("live.config")
config.NUMBER = 0
write(1)
settings = load(config, source=FileSource(path, poll_seconds=0.02), environ={}, keep=False)
told = []
settings.on_change("NUMBER", lambda old, new: told.append((os.getpid(), new["NUMBER"])))
settings.start()
parent = os.getpid()
begun, leave = threading.Event(), threading.Event()

def hold():
    with settings._lock:  # the worst moment: another thread is in the middle of a change
        begun.set()
        leave.wait(10)

holder = threading.Thread(target=hold)
holder.start()
begun.wait(10)
children = []
for _ in range(3):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        end = time.monotonic() + 10
        while settings.snapshot["NUMBER"] != 2 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        threads = [thread.name for thread in threading.enumerate()]
        own = [number for pid, number in told if pid == os.getpid()]
        settings.close()
        os.write(writing, json.dumps([settings.snapshot["NUMBER"], own, threads.count("smartconfig-watcher")]).encode())
        os._exit(0)
    children.append((child, reading))
leave.set()
holder.join()
write(2)
for child, reading in children:
    print(os.read(reading, 1000).decode())
    os.waitpid(child, 0)
while len(told) < 1:
    time.sleep(0.01)
settings.close()
print(json.dumps([settings.snapshot["NUMBER"], [number for pid, number in told if pid == parent], 1]))
"""


def test_every_child_follows_the_source_itself(tmp_path: Path) -> None:
    """Forked while another thread holds the lock, each child has one watcher of its own, sees the change and runs its
    callbacks once; so does the parent."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "overrides.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[2, [2], 1]] * 4
