"""`requests.certs` itself, under this name too."""

from __future__ import annotations

import sys

from requests import certs
from requests.certs import *  # noqa: F403

if __name__ == "__main__":
    print(certs.where())
else:
    sys.modules[__name__] = certs
