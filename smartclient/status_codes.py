"""`requests.status_codes` itself, under this name too."""

from __future__ import annotations

import sys

from requests import status_codes
from requests.status_codes import *  # noqa: F403

sys.modules[__name__] = status_codes
