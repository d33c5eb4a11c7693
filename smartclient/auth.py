"""`requests.auth` itself, under this name too."""

from __future__ import annotations

import sys

from requests import auth
from requests.auth import *  # noqa: F403

sys.modules[__name__] = auth
