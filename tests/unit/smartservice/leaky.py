"""The config module of a service with a secret in every corner. Each value is made up and opens nothing."""

from smartconfig import Secret


def planted(number: int) -> str:
    """The secret with this number: recognisable wherever it appears."""
    return f"Pl4nted{number:03d}zQ"


PARTNER_ONE: Secret[str] = planted(1)
PARTNER_TWO: Secret[str | None] = planted(2)
PARTNERS: Secret[list[str]] = [planted(3), planted(4)]
PARTNER_MAP: Secret[dict[str, str]] = {"blue": planted(5)}
SMTP_PASSWORD: str = planted(6)
STRIPE_KEY: str = planted(7)
API_TOKEN: str = planted(8)
CLIENT_SECRET: str = planted(9)
SENTRY_DSN: str = f"https://{planted(10)}@errors.example/1"
BROKER: str = f"amqp://app:{planted(11)}@queue:5672/x"
BROKERS: list[str] = [f"amqp://app:{planted(12)}@one", f"amqp://app:{planted(13)}@two"]
SIGNED_LINK: str = f"https://files.example/a?token={planted(14)}"
OPTIONS: dict[str, object] = {"user": "app", "password": planted(15), "nested": {"api_key": planted(16)}}
PAIRS: list[tuple[str, str]] = [("X-Api-Key", planted(17)), ("Authorization", f"Bearer {planted(18)}")]
SESSION_COOKIES: str = planted(19)
MAILGUN: str = f"key=abc;password={planted(20)}"
