"""`requests.help` itself, under this name too."""

from __future__ import annotations

import sys

from requests import help
from requests.help import *  # noqa: F403

if __name__ == "__main__":
    help.main()
else:
    sys.modules[__name__] = help
