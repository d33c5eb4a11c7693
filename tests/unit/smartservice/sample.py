"""The config module of a service that exists for tests only."""

from smartconfig import Secret

# How many teams one page holds.
PAGE_SIZE: int = 20
PARTNER_TOKEN: Secret[str] = ""
