"""`requests.models` itself, under this name too."""

from __future__ import annotations

import sys

from requests import models
from requests.models import *  # noqa: F403

sys.modules[__name__] = models
