"""`requests.compat` itself, under this name too."""

from __future__ import annotations

import sys

from requests import compat
from requests.compat import *  # noqa: F403

sys.modules[__name__] = compat
