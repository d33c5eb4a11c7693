"""`requests.exceptions` itself, under this name too."""

from __future__ import annotations

import sys

from requests import exceptions
from requests.exceptions import *  # noqa: F403

sys.modules[__name__] = exceptions
