"""`requests.structures` itself, under this name too."""

from __future__ import annotations

import sys

from requests import structures
from requests.structures import *  # noqa: F403

sys.modules[__name__] = structures
