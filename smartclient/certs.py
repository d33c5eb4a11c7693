"""`requests.certs` itself, under this name too."""

from __future__ import annotations

import sys

from certifi import where as where
from requests import certs

sys.modules[__name__] = certs
