"""The one place that decides what is secret. Logs, health, error reports, dumps and `explain` all ask here.

Three things give a secret away: its **name** (`DB_PASSWORD`, `X-Api-Key`), its **shape** (a URL with a password, a
bearer token, a private key) and being a **known** value (a setting that is declared `Secret`). Names are judged word by
word, so `MONKEY`, `PRIMARY_KEY`, `MAX_TOKENS` and `PASSWORD_MIN_LENGTH` stay readable.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet
from functools import lru_cache
from typing import Any

MASK = "********"

_DEEPEST = 12
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_SECRET_WORDS = frozenset(
    "password passwords passwd pwd passphrase passcode secret secrets credential credentials apikey apikeys bearer jwt "
    "otp totp mnemonic authorization cvv cvc ssn csrf xsrf csrftoken xsrftoken dsn sessionid connectionstring "
    "kennwort passwort".split()
)
_SECRET_PAIRS = frozenset(
    [
        ("session", "id"), ("connection", "string"), ("conn", "string"), ("conn", "str"), ("webhook", "url"),
        ("webhook", "uri"), ("hook", "url"), ("card", "number"), ("seed", "phrase"), ("key", "id"), ("private", "pem"),
        ("pass", "phrase"), ("pass", "word"), ("signed", "url"), ("sas", "url"), ("smart", "debug"), ("recovery", "codes"), ("backup", "codes"),
    ]
)  # fmt: skip
_SECRET_LAST = frozenset("pass auth salt pepper pin cookie cookies pat token tokens key keys".split())
_SECRET_ENDINGS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "secretkey",
    "accesskey",
    "privatekey",
    "token",
)
_HARMLESS_PASSES = frozenset("pass compass bypass encompass surpass trespass overpass underpass allpass".split())
_LAST_NEEDS_COMPANY = frozenset(["key", "keys", "pat", "tokens"])
_HARMLESS_KEYS = frozenset(
    "primary foreign sort sorted partition public publishable cache routing group natural row unique index object "
    "lookup shard map dict config configuration setting idempotency idempotence hash range hot shortcut arrow order "
    "join message translation surrogate composite candidate missing unknown duplicate required allowed redis item "
    "dedup deduplication rate registry turn low high home end enter menu grouping log by from with json field "
    "metric event any no".split()
)
_HARMLESS_TOKENS = frozenset(
    "max min num total prompt completion input output count used stop pad eos bos unk sep cls mask used cached "
    "remaining next page continuation public publishable cancellation cancel per of no".split()
)
_HARMLESS_LAST = frozenset(
    "ttl seconds secs second ms millis minutes hours days timeout expiry expires expiration lifetime age length len size "
    "min max count limit enabled disabled required optional name names header headers field fields column param "
    "prefix type algorithm algorithms alg policy rounds cost iterations file path dir directory url uri endpoint host "
    "port region issuer audience scope scopes version format class backend provider manager rotation interval hint at "
    "date domain secure httponly samesite partitioned hasher hashers validator validators strength attempts retries form page "
    "template view arn label status encoding charset location source store bucket rate mode method level strategy "
    "rule rules regex pattern complexity budget window usage per schema index factory handler middleware "
    "permanent refresh checker error errors set present".split()
)
_HARMLESS_ENDINGS = frozenset([("split", "salt"), ("key", "cookies")])
"""Which side of a split one is on is no secret, nor are the names of the cookies that decide it."""

_QUERY_SECRETS = frozenset("key sig signature code auth sign hmac x-amz-signature x-amz-credential".split())


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value under this name (setting, header, field, query parameter) must not be shown."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    if not words:
        return False
    last = words[-1]
    if any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)) and last not in ("name", "header"):
        return words[-2:] != ["key", "id"] or words[-3:-2] == ["access"]
    if last in _HARMLESS_LAST or tuple(words[-2:]) in _HARMLESS_ENDINGS:
        return False
    if any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words if word != "token"):
        return True
    return _is_secret_ending(words) or ("key" in words and "secret" in words)


def _is_secret_ending(words: list[str]) -> bool:
    """`STRIPE_KEY`, `DB_PASS`, `SESSION_TOKEN_OLD`; but not `SORT_KEY`, `MAX_TOKENS`, `KEY`."""
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        if word in ("token", "tokens") and before not in _HARMLESS_TOKENS and (before or word == "token"):
            return True
        if word in ("key", "keys") and before in ("api", "access", "private", "signing", "encryption", "master"):
            return True
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last.endswith("pass") and last not in _HARMLESS_PASSES:
        return True
    if last not in _SECRET_LAST or last in ("token", "tokens"):
        return False
    if last in ("key", "keys"):
        return bool(before) and before not in _HARMLESS_KEYS
    return bool(before) or last not in _LAST_NEEDS_COMPANY


_NAME = re.compile(r"""(?<![A-Za-z0-9_.])([A-Za-z][A-Za-z0-9_.\-]{0,120}\]?)(\\?["']?\s{0,3}(?:=>|:=|[:=])\s{0,3})""")
_VALUE = re.compile(
    r"""[bru]?\\?"(?:[^"\\]|\\.)*"|[bru]?'(?:[^'\\]|\\.)*'|\[[^\]]{0,2000}\]|\([^)]{0,2000}\)|\{[^}]{0,2000}\}"""
    r"""|[^\s,;&"'<>)\]}]+(?:"[^"]*"|'[^']*')*|["'][^\r\n]*"""
)
_PAIR = re.compile(
    r"""([(\[]\s?[bru]?\\?["']|["']?(?:name|key)\\?["']?\s?[:=]\s?\\?["'])([A-Za-z][A-Za-z0-9_.\- ]{0,120})"""
    r"""(\\?["']\s?,\s?(?:\\?["']?value\\?["']?\s?[:=]\s?)?[bru]?\\?)(["'])((?:(?!\4).)+)\4"""
)
_HEADER_LINE = re.compile(
    r"""(?i)\b((?:proxy-)?authorization|(?:set-)?cookie2?)(\\?["']?\s*[:=]\s*\\?["']?)([^\r\n"'\\]+)"""
)
_USERINFO = re.compile(r"""(://[^\s/:@'"]*):(?!\d{1,5}(?:[/?\#\s'"]|$))([^\s'"]{1,2000})@""")
_TOKEN_USERINFO = re.compile(r"://[A-Za-z0-9_.\-]{16,}@")
_SCHEME_TOKEN = re.compile(r"\b(?i:(bearer|basic|token|digest|apikey|negotiate))\s+([A-Za-z0-9._~+/\-]{6,}={0,2})")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.S)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\b[rsp]k_(?:live|test)_\w{8,}|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{10,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?|\bSG\.[\w-]{16,}\.[\w-]{16,}|hooks\.slack\.com/services/\S+"
    r"|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{40,}|\bdckr_pat_[\w-]{16,}|\bhv[sb]\.[\w-]{20,}"
)
_TRIGGER = re.compile(
    r"(?i)pass|secret|token|pwd|key|auth|cookie|credential|jwt|otp|mnemonic|cv[vc]|ssn|[cx]srf|dsn|session|connection|conn|"
    r"webhook|hook|card|seed|pin|salt|pepper|pat|sig|code|kennwort|"
    r"://|bearer|basic|digest|negotiate|-----BEGIN|akia|asia|gh[pousr]_|glpat-|xox|k_live|k_test|sk-|aiza|ya29|eyj|sg\.|npm_|"
    r"pypi-|hv[sb]\."
)
_NOTHING = frozenset(["none", "null", "true", "false", '""', "''"])
_WORDS_AFTER_SCHEME = frozenset(
    "token tokens authentication authorization auth access scheme credentials header".split()
)


def redact_text(text: str, known: Iterable[str] = ()) -> str:
    """The text with every secret in it masked: by name (`password=...`), by shape, and every `known` value."""
    for value in known:
        if len(value) >= 4 and value in text:
            text = text.replace(value, MASK)
    if not _TRIGGER.search(text):
        return text
    text = _PRIVATE_KEY.sub(MASK, text)
    if "://" in text and "@" in text:
        text = _USERINFO.sub(rf"\1:{MASK}@", text)
        text = _TOKEN_USERINFO.sub(f"://{MASK}@", text)
    text = _HEADER_LINE.sub(rf"\1\2{MASK}", text)
    text = _SHAPES.sub(MASK, text)
    text = _SCHEME_TOKEN.sub(_mask_scheme_token, text)
    return _mask_assignments(_PAIR.sub(_mask_pair, text))


def _mask_scheme_token(found: re.Match[str]) -> str:
    scheme, token = found.groups()
    looks_random = any(char.isdigit() or char in "+/=~" for char in token) or token[1:] != token[1:].lower()
    if looks_random or (scheme.lower() == "bearer" and token.lower() not in _WORDS_AFTER_SCHEME):
        return f"{scheme} {MASK}"
    return found.group()


def _mask_pair(found: re.Match[str]) -> str:
    """`("X-Api-Key", "x")` and `{"name": "DB_PASSWORD", "value": "x"}`, as they stand in a repr."""
    before, name, between, quote, _ = found.groups()
    return f"{before}{name}{between}{quote}{MASK}{quote}" if is_secret_name(name) else found.group()


def _mask_assignments(text: str) -> str:
    """Mask each value that follows a secret name: `password=x`, `"token": "x"`, `?key=x`."""
    parts: list[str] = []
    done = 0
    for found in _NAME.finditer(text):
        if found.start() < done:
            continue
        name = found.group(1)
        in_query = found.start() > 0 and text[found.start() - 1] in "?&" and name.lower() in _QUERY_SECRETS
        if not in_query and not is_secret_name(name):
            continue
        value = _VALUE.match(text, found.end())
        if value is None or value.group().startswith(MASK) or value.group().lower() in _NOTHING:
            continue
        quote = value.group().lstrip("bru\\")[:1]
        quote = quote if quote in ("'", '"') and value.group()[-1] == quote else ""
        parts += text[done : found.end()], quote, MASK, quote
        done = value.end()
    return "".join([*parts, text[done:]])


def redact(value: Any, known: Iterable[str] = ()) -> Any:
    """A copy of a JSON-like value with every secret masked, whatever it is nested in.

    Enters mappings, lists, tuples, sets, bytes and pairs such as `("X-Api-Key", "...")` and `{"name": ..., "value": ...}`.
    Numbers, booleans and None stay themselves, except numbers under a secret name; any other object becomes its redacted
    text. Never raises: what cannot be read becomes its type's name.
    """
    return _redact(value, tuple(known), 0)


def _redact(value: Any, known: tuple[str, ...], depth: int) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return redact_text(value, known)
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return _redact_mapping(value, known, depth)
    if isinstance(value, list | tuple):
        if (
            len(value) == 2
            and isinstance(value[0], str)
            and isinstance(value[1], str | bytes)
            and is_secret_name(value[0])
        ):
            return [value[0], MASK] if isinstance(value, list) else (value[0], MASK)
        items = [_redact(item, known, depth + 1) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, AbstractSet):
        return [_redact(item, known, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray):
        return redact_text(bytes(value).decode("utf-8", "backslashreplace"), known)
    try:
        return redact_text(str(value), known)
    except Exception:
        return f"<{type(value).__name__}>"


def _redact_mapping(value: Mapping[Any, Any], known: tuple[str, ...], depth: int) -> dict[Any, Any]:
    label = value.get("name", value.get("key"))
    if isinstance(label, str) and "value" in value and is_secret_name(label):
        value = {**value, "value": MASK}
    clean: dict[Any, Any] = {}
    for name, item in value.items():
        text = name if isinstance(name, str) else name.decode("latin-1") if isinstance(name, bytes) else ""
        if text and is_secret_name(text) and _can_hide(item):
            clean[name] = MASK
        else:
            clean[name] = _redact(item, known, depth + 1)
    return clean


def _can_hide(item: Any) -> bool:
    return item is not None and not isinstance(item, bool) and item not in ("", b"", [], (), {})


def redact_url(url: str) -> str:
    """The URL with its password, token user and secret query parameters masked; the rest stays readable."""
    return redact_text(url)


def mask(value: object, key: bytes | None = None) -> str:
    """What stands in for a secret: `********`, with `key` also a fingerprint: `******** (hmac 3f9a1c)`.

    The fingerprint is the first 24 bits of HMAC-SHA-256 (RFC 2104): equal secrets under the same key have equal
    fingerprints, so two hosts can be compared without showing either. An empty secret says so: `(empty)`.
    """
    text = value if isinstance(value, str) else str(value)
    if value is None or not text:
        return "(empty)"
    if key is None:
        return MASK
    return f"{MASK} (hmac {hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:6]})"


class Redactor:
    """`redact` and `redact_text` that also mask the secrets which `known()` gives at that moment."""

    def __init__(self, known: Callable[[], Iterable[str]] = tuple) -> None:
        self._known = known

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        return redact_text(text, self._known())

    def value(self, value: Any) -> Any:
        """A copy of a JSON-like value with every secret masked."""
        return redact(value, self._known())

    def __repr__(self) -> str:
        return f"Redactor({len(tuple(self._known()))} known secrets)"
