"""`requests.adapters` itself, under this name too."""

from __future__ import annotations

import sys

from requests import adapters
from requests.adapters import *  # noqa: F403

sys.modules[__name__] = adapters
