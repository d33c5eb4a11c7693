"""requests, for services: `import smartclient as requests` is enough.

Every name of requests is here and is the same object, but for the verbs and Session, which also take `service://` URLs
and the keywords `deadline`, `retries`, `idempotency_key`, `fallback`, `hedge` and `background`. A plain URL without them
takes requests' own way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import requests
from requests import check_compatibility as check_compatibility

from smartclient import (
    adapters as adapters,
    api as api,
    auth as auth,
    certs as certs,
    compat as compat,
    cookies as cookies,
    exceptions as exceptions,
    hooks as hooks,
    models as models,
    packages as packages,
    sessions as sessions,
    status_codes as status_codes,
    structures as structures,
    utils as utils,
)
from smartclient.__version__ import (
    __author__ as __author__,
    __author_email__ as __author_email__,
    __build__ as __build__,
    __cake__ as __cake__,
    __copyright__ as __copyright__,
    __description__ as __description__,
    __license__ as __license__,
    __title__ as __title__,
    __url__ as __url__,
    __version__ as __version__,
)
from smartclient.api import delete, get, head, options, patch, post, put, request
from smartclient.exceptions import (
    ConnectionError,
    ConnectTimeout,
    FileModeWarning as FileModeWarning,
    HTTPError,
    JSONDecodeError,
    ReadTimeout,
    RequestException,
    Timeout,
    TooManyRedirects,
    URLRequired,
)
from smartclient.models import PreparedRequest, Request, Response
from smartclient.sessions import Session, session
from smartclient.status_codes import codes

if TYPE_CHECKING:
    from smartclient import recorder as recorder, testing as testing
    from smartclient.deadlines import deadline as deadline
    from smartclient.errors import (
        BreakerOpen as BreakerOpen,
        DeadlineExceeded as DeadlineExceeded,
        LimitReached as LimitReached,
        NoInstances as NoInstances,
        UnknownService as UnknownService,
    )
    from smartclient.parallel import gather as gather
    from smartclient.runtime import Mesh as Mesh, Options as Options

# What `from smartclient import *` gives is what `from requests import *` gives: no further name can hide one of a program.
__all__ = (
    "ConnectTimeout",
    "ConnectionError",
    "HTTPError",
    "JSONDecodeError",
    "PreparedRequest",
    "ReadTimeout",
    "Request",
    "RequestException",
    "Response",
    "Session",
    "Timeout",
    "TooManyRedirects",
    "URLRequired",
    "codes",
    "delete",
    "get",
    "head",
    "options",
    "packages",
    "patch",
    "post",
    "put",
    "request",
    "session",
    "utils",
)

_OURS = {
    "deadline": "deadlines",
    "gather": "parallel",
    "Mesh": "runtime",
    "Options": "runtime",
    "BreakerOpen": "errors",
    "DeadlineExceeded": "errors",
    "LimitReached": "errors",
    "NoInstances": "errors",
    "UnknownService": "errors",
}
"""Our names and their modules, which are imported when first asked for: a program of plain URLs never pays for them."""

_MODULES = frozenset(["recorder", "testing"])
"""Our modules that are meant to be used by name: `smartclient.testing.mock()`."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Our names at first use, and whatever else requests has."""
        if name in _OURS:
            found = getattr(importlib.import_module(f"smartclient.{_OURS[name]}"), name)
            globals()[name] = found
            return found
        if name in _MODULES:
            return importlib.import_module(f"smartclient.{name}")
        try:
            return getattr(requests, name)
        except AttributeError:
            raise AttributeError(f"module 'smartclient' has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return sorted({*globals(), *_OURS, *_MODULES, *dir(requests)})
