"""`requests.cookies` itself, under this name too."""

from __future__ import annotations

import sys

from requests import cookies
from requests.cookies import *  # noqa: F403

sys.modules[__name__] = cookies
