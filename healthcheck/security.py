"""What of a mapping may be shown. The judgement is that of `smartrealm.redaction`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from smartrealm.redaction import MASK, is_secret_name, redact

_DEEPEST = 40
_BARE = frozenset(["key", "token", "pass"])


def safe_dict(
    dictionary: Mapping[Any, Any], blacklist: Iterable[str] | None = None, max_deep: int | None = None
) -> dict[Any, Any]:
    """A copy of `dictionary` with passwords, tokens and keys masked, whatever they are nested in.

    Without `blacklist`, names are judged word by word (`MONKEY` stays readable) and secrets inside texts are masked
    too. With one, exactly the names that contain one of its words are masked, as published; so is `max_deep` as
    published: mappings deeper than that come back as they are.
    """
    if blacklist is None and max_deep is None:
        return _mapping(dictionary, hidden=False, depth=0)
    words = tuple(word.lower() for word in blacklist) if blacklist is not None else None
    return _listed(dictionary, words, 5 if max_deep is None else max_deep)


def _listed(dictionary: Mapping[Any, Any], words: tuple[str, ...] | None, max_deep: int) -> dict[Any, Any]:
    if max_deep <= 0:
        return dictionary  # type: ignore[return-value]
    result: dict[Any, Any] = {}
    for key, value in dictionary.items():
        name = str(key).lower()
        if isinstance(value, Mapping):
            result[key] = _listed(value, words, max_deep - 1)
        elif _is_secret(str(key)) if words is None else any(word in name for word in words):
            result[key] = MASK
        else:
            result[key] = value
    return result


def _mapping(dictionary: Mapping[Any, Any], *, hidden: bool, depth: int) -> dict[Any, Any]:
    """`hidden`: the mapping itself stands under a secret name, so every value in it is one. The shape stays."""
    if depth >= _DEEPEST:
        return {}
    result: dict[Any, Any] = {}
    for key, value in dictionary.items():
        secret = hidden or _is_secret(key.decode("latin-1") if isinstance(key, bytes) else str(key))
        if isinstance(value, Mapping):
            result[key] = _mapping(value, hidden=secret, depth=depth + 1)
        elif secret:
            result[key] = MASK
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            result[key] = [
                _mapping(item, hidden=False, depth=depth + 1) if isinstance(item, Mapping) else redact(item)
                for item in value
            ]
        else:
            result[key] = _plain(value)
    return _pair(result)


def _plain(value: Any) -> Any:
    """Texts and lists without their secrets; other objects stay what they are, for whoever writes them as JSON.

    A text that is JSON (as lists and mappings are in an environment variable) is judged as what it holds.
    """
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            held = json.loads(value)
        except (ValueError, RecursionError):
            return redact(value)
        clean = redact(held)
        return value if clean == held else json.dumps(clean)
    return redact(value) if isinstance(value, str | bytes | list | tuple | set | frozenset) else value


def _pair(result: dict[Any, Any]) -> dict[Any, Any]:
    """`{"name": "DB_PASSWORD", "value": ...}` is a secret as well."""
    label = result.get("name", result.get("key"))
    if isinstance(label, str) and isinstance(result.get("value"), str) and _is_secret(label):
        result["value"] = MASK
    return result


def _is_secret(name: str) -> bool:
    return name.lower() in _BARE or is_secret_name(name)
