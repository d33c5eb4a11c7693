"""Run the benchmarks and print their table: `python -m benchmarks [NAME ...] [--json]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Claim

_NOT_CLAIMS = {"__init__", "__main__", "measure"}


def names() -> list[str]:
    """Every benchmark file, in the order of the table."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_CLAIMS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[*names(), []], help="which to run; all when none is named")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a Markdown table")
    wanted = parser.parse_args()
    claims: list[Claim] = []
    for name in wanted.name or names():
        print(f"running {name} ...", file=sys.stderr, flush=True)
        claims += importlib.import_module(f"benchmarks.{name}").run()
    if wanted.json:
        print(json.dumps([asdict(claim) for claim in claims], indent=2))
    else:
        print("| what | bar | measured | reference | holds |\n|---|---|---|---|---|")
        for claim in claims:
            print(
                f"| {claim.what} | {claim.bar} | {claim.measured} | {claim.reference} | {'yes' if claim.holds else 'NO'} |"
            )
    return 0 if all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
