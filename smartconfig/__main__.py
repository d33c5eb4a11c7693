"""Say where every setting of a config module comes from: `python -m smartconfig identity.config [KEY]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from smartconfig.declarations import ModuleMissing, find_module
from smartconfig.explain import render_explanations
from smartconfig.loading import load
from smartconfig.sources import FileSource
from smartrealm import ConfigurationError
from smartrealm.errors import Unavailable

DONE, MISTAKES, WRONG_USE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the explanation; gives the exit code: 0 done, 1 the configuration has mistakes, 2 wrong use."""
    wanted = _parser().parse_args(arguments)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        for module in [*wanted.base, wanted.module]:
            find_module(module)
        source = FileSource(wanted.file) if wanted.file else None
        if source is not None:
            source.current()  # a file that was named and cannot be used is a mistake here, not an outage
        settings = load(wanted.module, base=wanted.base, source=source, service=wanted.service, keep=False)
    except (ModuleMissing, Unavailable) as error:
        return _complain(error, WRONG_USE)
    except ConfigurationError as error:
        return _complain(error, MISTAKES)
    try:
        print(render_explanations(settings.explain(wanted.key), as_json=wanted.json))
    except ConfigurationError as error:
        return _complain(error, WRONG_USE)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m smartconfig",
        description="Print value, type and origin of every setting, and what each one overrode. Secrets are masked.",
        epilog="Exit codes: 0 done, 1 the configuration has mistakes (all on stderr), 2 wrong use.",
    )
    parser.add_argument("module", help="the module of defaults, such as identity.config")
    parser.add_argument("key", nargs="?", metavar="KEY", help="only this setting, with all that is known of it")
    parser.add_argument("--json", action="store_true", help="a JSON list, for programs")
    parser.add_argument("--base", action="append", default=[], metavar="MODULE", help="defaults below; may be repeated")
    parser.add_argument("--file", metavar="PATH", help="a JSON file of overrides")
    parser.add_argument("--service", metavar="NAME", help="whose overrides count; else SERVICE_NAME, else the package")
    return parser


def _complain(error: Exception, code: int) -> int:
    print(error, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
