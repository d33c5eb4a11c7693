"""`requests._internal_utils` itself, under this name too."""

from __future__ import annotations

import sys

from requests import _internal_utils
from requests._internal_utils import *  # noqa: F403

sys.modules[__name__] = _internal_utils
