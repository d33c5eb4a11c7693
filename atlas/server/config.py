"""The settings of an `atlas serve`. The line above each is its description; the environment variable of its name wins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smartconfig import NeedsRestart, Secret

# The name of this service in its realm.
SERVICE_NAME: NeedsRestart[str] = "atlas"
# The port that gunicorn binds.
PORT: NeedsRestart[int] = 7070
# Threads in each worker process, made when they are needed: a reader that waits for news holds one.
THREADS: NeedsRestart[int] = 2000
# Seconds that an idle connection is kept open: longer than a holder's pause between two renewals.
KEEPALIVE_SECONDS: NeedsRestart[int] = 15

# The store behind this Atlas, as `atlas.open` takes it. Empty: in the local realm the file that this machine's services share.
ATLAS_STORE: NeedsRestart[str] = ""
# The keys of secret overrides, separated by commas; the first one encrypts. Empty: with SQLite the key file beside the store, else none.
ATLAS_KEYS: Secret[str] = ""
# Whether nobody is asked for a token. None: in the local realm on a loopback address, and nowhere else.
ATLAS_OPEN: NeedsRestart[bool | None] = None
# Seconds that one question may wait for news at most.
ATLAS_LONGEST_WAIT: float = 60.0
# Seconds between two looks for leases that have run out.
ATLAS_SWEEP_SECONDS: NeedsRestart[float] = 2.0
# Threads of each worker that readers who wait can never take.
ATLAS_SPARE_THREADS: NeedsRestart[int] = 100


def validate(config: Mapping[str, Any]) -> Iterator[str]:
    """What no type can say."""
    if config["ATLAS_SPARE_THREADS"] >= config["THREADS"]:
        yield (
            f"ATLAS_SPARE_THREADS is {config['ATLAS_SPARE_THREADS']}: it must be less than THREADS ({config['THREADS']})."
        )
    if config["ATLAS_SPARE_THREADS"] < 1:
        yield f"ATLAS_SPARE_THREADS is {config['ATLAS_SPARE_THREADS']}: it must be at least 1, or readers could block writers."
    if config["ATLAS_SWEEP_SECONDS"] <= 0:
        yield f"ATLAS_SWEEP_SECONDS is {config['ATLAS_SWEEP_SECONDS']}: it must be more than 0."
    if config["ATLAS_LONGEST_WAIT"] <= 0:
        yield f"ATLAS_LONGEST_WAIT is {config['ATLAS_LONGEST_WAIT']}: it must be more than 0."
