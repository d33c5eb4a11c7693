"""Health checks: an engine for new services, and `HealthCheck` and `EnvironmentDump` as the published libraries have them.

`healthcheck.flask.attach` puts an engine on a Flask app; nothing else here imports Flask.
"""

from healthcheck import checks
from healthcheck.answer import Answer
from healthcheck.engine import Engine
from healthcheck.environmentdump import EnvironmentDump
from healthcheck.healthcheck import (
    HealthCheck,
    basic_exception_handler as basic_exception_handler,
    check_reduce as check_reduce,
    json_failed_handler as json_failed_handler,
    json_success_handler as json_success_handler,
)
from healthcheck.model import Report, Result, Row, Transition

__all__ = [
    "Answer",
    "Engine",
    "EnvironmentDump",
    "HealthCheck",
    "Report",
    "Result",
    "Row",
    "Transition",
    "checks",
]


def __getattr__(name: str) -> object:
    """`TornadoHandler`, where tornado is installed: imported when it is asked for."""
    if name == "TornadoHandler":
        try:
            from healthcheck.tornado_handler import TornadoHandler
        except ImportError:
            pass
        else:
            return TornadoHandler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
