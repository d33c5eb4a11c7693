"""`requests.utils` itself, under this name too."""

from __future__ import annotations

import sys

from requests import utils
from requests.utils import *  # noqa: F403

sys.modules[__name__] = utils
