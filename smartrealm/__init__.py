"""The words that every part of the toolkit shares. Standard library only."""

from smartrealm.errors import ConfigurationError, NotConfigured, SmartError
from smartrealm.fork import on_fork
from smartrealm.headers import CallContext, current_call
from smartrealm.names import Realm, ServiceName
from smartrealm.redaction import mask, redact, redact_text

__all__ = [
    "CallContext",
    "ConfigurationError",
    "NotConfigured",
    "Realm",
    "ServiceName",
    "SmartError",
    "current_call",
    "mask",
    "on_fork",
    "redact",
    "redact_text",
]
