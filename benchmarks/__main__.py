"""Run the benchmarks and print their table: `python -m benchmarks [NAME ...] [--json]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Claim

_NOT_CLAIMS = {"__init__", "__main__", "measure", "realm_of_a_thousand"}


def names() -> list[str]:
    """Every benchmark file, in the order of the table."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_CLAIMS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which to run, all when none is named: {', '.join(names())}")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a Markdown table")
    wanted = parser.parse_args()
    unknown = set(wanted.name) - set(names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    claims: list[Claim] = []
    if not wanted.json:
        print("| what | bar | measured | reference | holds |\n|---|---|---|---|---|", flush=True)
    for name in wanted.name or names():
        print(f"running {name} ...", file=sys.stderr, flush=True)
        for claim in importlib.import_module(f"benchmarks.{name}").run():
            claims.append(claim)
            if not wanted.json:
                print(row(claim), flush=True)
    if wanted.json:
        print(json.dumps([asdict(claim) for claim in claims], indent=2))
    return 0 if all(claim.holds for claim in claims) else 1


def row(claim: Claim) -> str:
    """The claim as a line of the table."""
    holds = "yes" if claim.holds else "NO"
    return f"| {claim.what} | {claim.bar} | {claim.measured} | {claim.reference} | {holds} |"


if __name__ == "__main__":
    sys.exit(main())
