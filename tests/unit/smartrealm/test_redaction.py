"""The names and texts here are made up; none opens anything."""

import json
from dataclasses import dataclass

import pytest

from smartrealm.redaction import MASK, Redactor, is_secret_name, mask, redact, redact_text

SECRET_NAMES = """
    DB_PASSWORD PGPASSWORD dbpass DB_PASS SMTP_PWD api_key X-Api-Key APIKEY stripe_key SENDGRID_KEY AWS_SECRET_ACCESS_KEY
    AWS_ACCESS_KEY_ID SECRET_KEY SECRET_KEY_FALLBACKS client_secret clientSecret accessToken access_token refresh_token token
    TOKEN GITHUB_TOKEN auth_token Authorization Proxy-Authorization Cookie Set-Cookie session_id sessionid csrf_token
    PRIVATE_KEY private_key_pem SIGNING_KEY ENCRYPTION_KEY passphrase SENTRY_DSN SLACK_WEBHOOK_URL connectionString
    JWT_SECRET otp pin SALT PASSWORD_SALT password_hash BASIC_AUTH GITHUB_PAT credentials userCredentials PASSWORD_2
    new_password passwordConfirm password_old JWT bearer mnemonic vault_token_prod MAILGUN_KEY X-Auth-Token secrets SECRET
    ACCOUNT_KEY storageAccountKey TWILIO_AUTH_TOKEN db.password user[password] LDAP_BIND_PASSWORD cvv
""".split()
HARMLESS_NAMES = """
    MONKEY SPLIT_SALT SPLIT_KEY_COOKIES KEYBOARD PRIMARY_KEY SORT_KEY PARTITION_KEY PUBLIC_KEY CACHE_KEY_PREFIX MAX_TOKENS TOKEN_TTL PASSWORD_MIN_LENGTH
    SECRETARY AUTHOR AUTHORITY COMPASS BYPASS PASSENGERS SESSION_COOKIE_NAME SESSION_COOKIE_SECURE KEY KEYWORDS AUTH_URL
    TOKEN_URL SECRETS_MANAGER_REGION PASSWORD_FILE TOKENIZER CLIENT_ID HOSTNAME key KEYS PASS_RATE SPIN PIPELINE PATTERN
    COOKIE_DOMAIN API_KEY_HEADER SECRET_NAME prompt_tokens completion_tokens total_tokens PATH SIGNATURE_ALGORITHM LOG_LEVEL
    KEEPALIVE KEY_COUNT foreign_key idempotency_key routing_key TURKEY_REGION HOCKEY DONKEY TOKENS_PER_MINUTE PASSTHROUGH
    PASSIVE AUTHENTICATED_USERS AUTHORS COOKIECUTTER_PATH TOKEN_BUCKET_SIZE DESSERT_MENU DATABASE_POOL_SIZE OAUTH_SCOPES
    CARDINALITY KEYSPACE REQUEST_ID SERVICE_NAME
""".split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    """A value under this name is never shown."""
    assert is_secret_name(name)
    assert redact({name: "planted-value"}) == {name: MASK}


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_a_harmless_name_stays_readable(name: str) -> None:
    """An operator at night can read every setting that is no secret."""
    assert not is_secret_name(name)


PLANTED = "hunter2-Zx9"
TEXTS = [
    f"postgresql://app:{PLANTED}@db:5432/x",
    f"postgresql://app:p@ss/{PLANTED}@db/x",
    f"redis://:{PLANTED}@cache:6379/0",
    f"amqp://a:{PLANTED}@one,amqp://b:{PLANTED}@two",
    f"GET /x?page=2&token={PLANTED}&q=1",
    f"GET https://files/x?sig={PLANTED}",
    f"Authorization: Basic {PLANTED}",
    f"authorization='Bearer {PLANTED}'",
    f"sent Bearer {PLANTED} and failed",
    f"Cookie: session={PLANTED}; theme=dark",
    f"Set-Cookie: id={PLANTED}; HttpOnly",
    f"password={PLANTED} host=db",
    f"password: '{PLANTED} with spaces'",
    f'{{"password": "{PLANTED}", "page": 2}}',
    f'{{"user": {{"api_key": "{PLANTED}"}}}}',
    json.dumps(json.dumps({"client_secret": PLANTED})),
    f"{{'passwords': ['{PLANTED}', 'b']}}",
    f"User(name='x', password='{PLANTED}')",
    f"Settings(auth=Auth(token='{PLANTED}'))",
    f"<x token={PLANTED}>",
    f"--db-password={PLANTED}",
    f"PGPASSWORD={PLANTED} psql",
    f"b'password={PLANTED}'",
    f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END RSA PRIVATE KEY-----",
    "key eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.hunter2-Zx9",
    "ghp_hunter2Zx9" + "a" * 30,
    f"xoxb-1234567890-{PLANTED}",
    f"headers [('Accept', 'x'), ('X-Api-Key', '{PLANTED}')]",
    f'[["Authorization", "{PLANTED}"]]',
    f"{{'name': 'DB_PASSWORD', 'value': '{PLANTED}'}}",
    f"env (b'SMTP_PWD', b'{PLANTED}')",
    f"https://hooks.slack.com/services/T0/B0/{PLANTED}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_in_a_text_is_known_by_its_shape(text: str) -> None:
    """However it is written down, the secret itself does not come through."""
    shown = redact_text(text)
    assert "hunter2" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        "GET /teams?page=2&sort=name 200",
        "http://host:8080/users/me@example.org",
        "connected to postgresql://app@db:5432/x",
        "Basic usage is simple",
        "the author of key: LOG_LEVEL is unknown",
        "max_tokens=4096 token_ttl=30",
        "bearer token is missing",
        '{"primary_key": "id", "monkey": "banana"}',
        "[('sort_key', 'name'), ('page', '2')]",
        "{'name': 'PAGE_SIZE', 'value': '20'}",
    ],
)
def test_an_ordinary_text_is_left_alone(text: str) -> None:
    """Redaction that eats log lines would be switched off by somebody; so it does not."""
    assert redact_text(text) == text


def test_a_secret_is_found_at_any_depth() -> None:
    """Mappings, lists, tuples, sets, pairs, bytes and objects are all entered."""

    @dataclass
    class Login:
        password: str

    shown = redact(
        {
            "list": [{"password": PLANTED}],
            "tuple": ({"token": PLANTED}, ("X-Api-Key", PLANTED)),
            "set": {f"password={PLANTED}"},
            "bytes": f"secret={PLANTED}".encode(),
            "pair": {"name": "DB_PASSWORD", "value": PLANTED},
            "object": Login(PLANTED),
            "url": f"redis://:{PLANTED}@h",
            b"api_key": PLANTED,
            "credentials": {"user": "x", "deep": [PLANTED]},
        }
    )
    assert PLANTED not in repr(shown)


def test_what_cannot_hide_anything_stays_itself() -> None:
    """Booleans, None and emptiness under a secret name say whether it is set, and no more."""
    value: dict[str, object] = {"password": None, "token": "", "use_auth": True, "n": 1.5, "secrets": []}
    assert redact(value) == value


def test_a_known_value_is_masked_wherever_it_stands() -> None:
    """A declared secret is masked even in a sentence that does not name it."""
    redactor = Redactor(lambda: ("planted",))
    assert redactor.text("it was planted here") == f"it was {MASK} here"
    assert redactor.value({"a": ["planted"]}) == {"a": [MASK]}
    assert "planted" not in repr(redactor)


def test_a_value_that_cannot_be_read_does_not_break_the_line() -> None:
    """Redaction never raises: it stands between an error and its report."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    loop: dict[str, object] = {}
    loop["self"] = loop
    assert redact(Broken()) == "<Broken>"
    assert "..." in repr(redact(loop))


def test_fingerprints_compare_secrets_under_one_key() -> None:
    """Equal secrets look equal, different ones different, and another key tells nothing."""
    assert mask("a", b"k") == mask("a", b"k")
    assert mask("a", b"k") != mask("b", b"k")
    assert mask("a", b"k") != mask("a", b"other")
    assert mask("a") == MASK
    assert mask("") == mask(None) == "(empty)"


@pytest.mark.parametrize("count", [20_000])
def test_a_hostile_text_takes_no_long_time(count: int) -> None:
    """No input makes the patterns run away (each is linear or bounded)."""
    for text in (
        "a=" * count,
        "://" * count,
        "password" * count,
        '"' * count,
        "eyJ" * count,
        "-----BEGIN " * count,
        "('a','" * count,
        "name='a','" * count,
        "([{" * count,
    ):
        assert isinstance(redact_text(text), str)
