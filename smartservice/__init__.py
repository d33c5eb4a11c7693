"""A wrapped Flask app with everything that a service in a fleet needs: `app = create_app("identity.config")`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartservice.app import SmartService, create_app

__all__ = ["SmartService", "create_app"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The two names at first use: neither pytest nor `flask` pays for them because our plugins are installed."""
        if name not in __all__:
            raise AttributeError(f"module 'smartservice' has no attribute {name!r}")
        from smartservice import app

        globals()[name] = getattr(app, name)
        return globals()[name]
