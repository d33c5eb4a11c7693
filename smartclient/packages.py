"""`requests.packages` itself, under this name too, with what it stands for: `smartclient.packages.urllib3` is urllib3."""

from __future__ import annotations

import sys

from requests import packages
from requests.packages import *  # noqa: F403

sys.modules[__name__] = packages
for _name in [name for name in sys.modules if name.startswith("requests.packages.")]:
    sys.modules[_name.replace("requests", "smartclient", 1)] = sys.modules[_name]
