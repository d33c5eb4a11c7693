"""`requests.__version__` itself, under this name too."""

from __future__ import annotations

import importlib
import sys

from requests.__version__ import (
    __author__ as __author__,
)
from requests.__version__ import (
    __author_email__ as __author_email__,
)
from requests.__version__ import (
    __build__ as __build__,
)
from requests.__version__ import (
    __cake__ as __cake__,
)
from requests.__version__ import (
    __copyright__ as __copyright__,
)
from requests.__version__ import (
    __description__ as __description__,
)
from requests.__version__ import (
    __license__ as __license__,
)
from requests.__version__ import (
    __title__ as __title__,
)
from requests.__version__ import (
    __url__ as __url__,
)
from requests.__version__ import (
    __version__ as __version__,
)

# `from requests import __version__` would give the text of that name.
sys.modules[__name__] = importlib.import_module("requests.__version__")
