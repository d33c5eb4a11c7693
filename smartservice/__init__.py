"""A wrapped Flask app with everything that a service in a fleet needs: `app = create_app("identity.config")`."""

from smartservice.app import SmartService, create_app

__all__ = ["SmartService", "create_app"]
