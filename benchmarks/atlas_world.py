"""A realm of 1,000 services with 10 instances each: reading all of it, one change applied, the memory of a reader."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from atlas.book import Book
from atlas.log import Head
from atlas.model import Author, Change, Edit, Instance, Lease, Service
from atlas.stores.sqlite import SqliteStore
from atlas.world import Delta, World
from benchmarks.measure import Claim

SERVICES, EACH, HOSTS = 1000, 10, 100
BY = Author("benchmark")


def run() -> list[Claim]:
    """Fill a SQLite map through its interface, then read it in processes of their own and change it under a reader."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "realm.db")
        _fill(path)
        opened = [_reader(path) for _ in range(5)]
        seconds = statistics.median(float(told["seconds"]) for told in opened)
        memory = max(float(told["memory"]) for told in opened)
        applied = _apply(path)
        seen = _seen(path)
    return [
        Claim("open a world of 1,000 services x 10 instances (SQLite)", "at most 1 s", f"{seconds:.2f} s", "-", seconds <= 1),
        Claim("memory that the world adds to a reader", "at most 60 MB", f"{memory:.0f} MB", "-", memory <= 60),
        Claim("one change of that world applied by a reader", "at most 5 ms", f"{applied * 1000:.2f} ms", "-", applied <= 0.005),
        Claim("an override written, seen by another reader of the file", "at most 0.3 s", f"{seen:.3f} s", "-", seen <= 0.3),
    ]  # fmt: skip


def _fill(path: Path) -> None:
    names = [f"service-{number:04d}" for number in range(SERVICES)]
    with Book(SqliteStore(path)) as book:
        edits = tuple(
            Edit("service", name, None, Service(name, owner="team", port=8000 + i).to_json())
            for i, name in enumerate(names)
        )
        head = book._catalogue.fill([Change(1, time.time(), BY.name, "", edits, "1")], tuple)
        assert isinstance(head, Head)
        for host in range(HOSTS):
            instances = tuple(
                Instance(names[(host * 100 + i) % SERVICES], f"10.0.{host}.1", 8000 + i, zone="a", version="1.2.3", incarnation=f"{host:08x}")
                for i in range(SERVICES * EACH // HOSTS)
            )  # fmt: skip
            book.hold(Lease(f"host-{host}", "i1", 15.0, instances))
        world = book.world()
        assert sum(len(places) for places in world.instances.values()) == SERVICES * EACH


def _reader(path: Path) -> dict[str, float]:
    """Open the map in a process of its own; what it took."""
    code = (
        "import json, resource, sys, time\n"
        "import atlas, atlas.book, atlas.stores.sqlite\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "before, begun = resident(), time.perf_counter()\n"
        "directory = atlas.open(sys.argv[1], environ={})\n"
        "world = directory.world()\n"
        "seconds = time.perf_counter() - begun\n"
        "assert len(world.services) == 1000 and sum(map(len, world.instances.values())) == 10000\n"
        "print(json.dumps({'seconds': seconds, 'memory': (resident() - before) / 1e6}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _apply(path: Path) -> float:
    """The median time that a reader needs for one change: a renewed instance, an override, a service."""
    with Book(SqliteStore(path)) as book:
        world = book.world()
        taken = []
        for number in range(60):
            position = world.position
            if number % 3 == 0:
                book.set_override("*", "LIMIT", number, by=BY)
            elif number % 3 == 1:
                book.put_service(Service("service-0001", description=str(number)), by=BY)
            else:
                book.hold(Lease("one-more", "i1", 15.0, (Instance("service-0002", "10.9.9.9", 8000 + number),)))
            update = book.wait(position, 5)
            assert isinstance(update, Delta)
            begun = time.perf_counter()
            world = world.apply(update)
            taken.append(time.perf_counter() - begun)
        assert isinstance(world, World)
    return statistics.median(taken)


def _seen(path: Path) -> float:
    """The slowest of some overrides, from before the write until another store's reader has it."""
    slowest = 0.0
    with Book(SqliteStore(path)) as writer, Book(SqliteStore(path)) as reader:
        position = reader.world().position
        reader.wait(position, 0.2)
        for number in range(20):
            begun = time.perf_counter()
            writer.set_override("*", "SEEN", number, by=BY)
            update = reader.wait(position, 5)
            slowest = max(slowest, time.perf_counter() - begun)
            assert update is not None
            position = update.position
    return slowest
