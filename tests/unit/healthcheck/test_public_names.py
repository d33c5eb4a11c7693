"""What services import: the public names, and those of the published libraries where they always were."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import healthcheck


def test_the_public_names_are_these() -> None:
    """A name that appears or goes does so on purpose."""
    assert healthcheck.__all__ == [
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


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("healthcheck", "HealthCheck EnvironmentDump basic_exception_handler json_success_handler json_failed_handler check_reduce"),
        ("healthcheck.healthcheck", "HealthCheck basic_exception_handler json_success_handler json_failed_handler check_reduce logger"),
        ("healthcheck.environmentdump", "EnvironmentDump"),
        ("healthcheck.security", "safe_dict"),
        ("healthcheck.timeout", "timeout TimeoutError"),
    ],
)  # fmt: skip
def test_published_names_are_where_they_were(module: str, names: str) -> None:
    """Imports of either library go on working."""
    for name in names.split():
        assert hasattr(importlib.import_module(module), name), name


STAND_IN = """
import sys, types
tornado, web = types.ModuleType("tornado"), types.ModuleType("tornado.web")
class RequestHandler:
    def __init__(self, **settings): self.said = []; self.initialize(**settings)
    def set_status(self, status): self.said.append(status)
    def set_header(self, name, value): self.said.append((name, value))
    def write(self, body): self.said.append(body)
web.RequestHandler = RequestHandler
tornado.web = web
sys.modules.update({"tornado": tornado, "tornado.web": web})
from healthcheck import HealthCheck, TornadoHandler
health = HealthCheck(success_handler=None)
handler = TornadoHandler(checker=health)
handler.get()
print(handler.said)
"""


def test_tornado_is_served_where_it_is_installed() -> None:
    """TornadoHandler answers GET with what run() says; the package looks for tornado only when asked for it."""
    said = subprocess.run([sys.executable, "-c", STAND_IN], capture_output=True, text=True, check=True).stdout
    assert said == "[200, ('Content-Type', 'application/json'), 'OK']\n"


def test_without_tornado_there_is_no_handler() -> None:
    """As published: the name cannot be imported."""
    if importlib.util.find_spec("tornado") is not None:
        pytest.skip("tornado is installed")
    with pytest.raises(AttributeError, match="TornadoHandler"):
        healthcheck.TornadoHandler  # noqa: B018
