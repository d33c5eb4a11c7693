"""requests, for services."""
