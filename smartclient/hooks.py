"""`requests.hooks` itself, under this name too."""

from __future__ import annotations

import sys

from requests import hooks
from requests.hooks import *  # noqa: F403

sys.modules[__name__] = hooks
