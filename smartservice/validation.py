"""`validated`: a pydantic model for the body or the query of a request, and a 422 that says what is wrong where."""

from __future__ import annotations

import collections.abc
import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from inspect import iscoroutinefunction
from typing import Any, Union, get_args, get_origin
from urllib.parse import quote

from flask import current_app, request
from flask.views import View
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import UnsupportedMediaType

from smartrealm.errors import BadRequest, ValidationFailed
from smartrealm.redaction import is_secret_name, redact_text

_LISTS = (list, set, frozenset, tuple, collections.abc.Sequence, collections.abc.Set, collections.abc.Iterable)
_TELLS_NOTHING = "This value is not accepted."
_SAFE_TYPES = frozenset(
    "missing extra_forbidden string_type string_too_short string_too_long int_type float_type bool_type list_type "
    "dict_type too_short too_long string_pattern_mismatch model_type none_required".split()
)
"""Kinds of mistake whose sentence never repeats any part of the value."""


@dataclass(frozen=True)
class Validated:
    """What a view takes, readable from outside as `view.__validated__`."""

    body: Any = None
    """The type of the JSON body: a pydantic model, or anything that pydantic can check, such as `list[TeamIn]`."""

    query: Any = None
    """The pydantic model of the query string."""

    returns: Any = None
    """The type of the answer. It is described in `/openapi.json`; the answer is not checked against it."""

    @cached_property
    def _body(self) -> _Checker:
        return _Checker(self.body)

    @cached_property
    def _query(self) -> _Checker:
        return _Checker(self.query)


def validated(
    *, body: Any = None, query: Any = None, returns: Any = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Check the request and hand the view what it says: `body=` and `query=` as instances of these models.

        @validated(body=TeamIn, query=Page)
        def post(self, body: TeamIn, query: Page) -> Team: ...

    Works on plain views, also async ones, and on the methods of resources. A body that is no JSON type answers 415,
    JSON that cannot be read 400, values that break the rules 422 with every mistake of body and query at once. A plain
    view may return a pydantic model too. `returns=` names the type of the answer for the description of the service, where
    the annotation does not: nothing is checked.
    """
    wanted = Validated(body, query, returns)

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        is_async = iscoroutinefunction(view)

        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            kwargs.update(_read(wanted))
            answer = (current_app.ensure_sync(view) if is_async else view)(*args, **kwargs)
            return answer if args and isinstance(args[0], View) else _for_flask(answer)

        checked.__validated__ = wanted  # type: ignore[attr-defined]
        return checked

    return decorate


def _read(wanted: Validated) -> dict[str, Any]:
    from pydantic import ValidationError

    found: dict[str, Any] = {}
    mistakes: list[dict[str, str]] = []
    if wanted.query is not None:
        given = wanted._query.from_query(request.args)
        try:
            found["query"] = wanted._query.adapter.validate_python(given)
        except ValidationError as error:
            mistakes += wanted._query.parameter_mistakes(error, given)
    if wanted.body is not None:
        raw = _raw_body()
        try:
            found["body"] = wanted._body.adapter.validate_json(raw)
        except ValidationError as error:
            mistakes += wanted._body.body_mistakes(error, raw)
    if mistakes:
        raise ValidationFailed(errors=mistakes)
    return found


def _raw_body() -> bytes:
    if not request.is_json:
        sent = f"not {request.mimetype}" if request.mimetype else "and name it in Content-Type"
        raise UnsupportedMediaType(f"Send the body as application/json, {sent}.")
    return request.get_data()


def _for_flask(answer: Any) -> Any:
    """A plain view's answer as Flask takes it: a model becomes its JSON object."""
    if isinstance(answer, tuple) and answer:
        return (_for_flask(answer[0]), *answer[1:])
    if hasattr(type(answer), "__pydantic_serializer__") and hasattr(answer, "model_dump"):
        return answer.model_dump(mode="json", by_alias=True)
    return answer


@dataclass
class _Checker:
    """One type, its pydantic adapter (made when first used) and what is known of its fields."""

    kind: Any
    _lists: frozenset[str] = field(init=False, default=frozenset())

    @cached_property
    def adapter(self) -> Any:
        from pydantic import TypeAdapter

        self._lists = frozenset(_list_names(self.kind))
        return TypeAdapter(self.kind)

    def from_query(self, args: MultiDict[str, str]) -> dict[str, Any]:
        """The query as a mapping: a repeated key is a list, and so is a single one where the model wants a list."""
        self.adapter  # noqa: B018  # knows the names of the lists
        return {name: values if len(values) > 1 or name in self._lists else values[0] for name, values in args.lists()}

    def parameter_mistakes(self, error: Any, given: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        secrets = tuple(_secret_values(given))
        for mistake in error.errors(include_url=False, include_context=False):
            path = mistake["loc"]
            name = {"parameter": str(path[0])} if path else {}
            yield {**name, "detail": self._detail(mistake, secrets)}

    def body_mistakes(self, error: Any, raw: bytes) -> Iterator[dict[str, str]]:
        mistakes = error.errors(include_url=False, include_context=False)
        if mistakes[0]["type"] == "json_invalid":
            raise BadRequest(f"The body is not valid JSON: {mistakes[0]['msg'].partition(': ')[2]}.")
        given = json.loads(raw)
        secrets = tuple(_secret_values(given))
        for mistake in mistakes:
            path = _path_in(given, mistake["loc"], missing=mistake["type"] == "missing")
            pointer = "#" + "".join(f"/{_escaped(part)}" for part in path)
            yield {"pointer": pointer, "detail": self._detail(mistake, secrets)}

    def _detail(self, mistake: Mapping[str, Any], secrets: tuple[str, ...]) -> str:
        if mistake["type"] not in _SAFE_TYPES and _is_secret_field(self.kind, mistake["loc"]):
            return _TELLS_NOTHING
        return redact_text(mistake["msg"], secrets)


def _path_in(given: Any, loc: tuple[int | str, ...], *, missing: bool) -> Iterator[int | str]:
    """The parts of pydantic's location that are in the document; it also names union members and key checks."""
    for position, part in enumerate(loc):
        is_index = isinstance(given, list) and isinstance(part, int) and part < len(given)
        if is_index or (isinstance(given, dict) and part in given):
            given = given[part]
            yield part
        elif missing and position == len(loc) - 1:
            yield part


def _escaped(part: int | str) -> str:
    """One part of a pointer in a URI fragment (RFC 6901, sections 3 and 6)."""
    return quote(str(part).replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@")


def _list_names(kind: Any) -> Iterator[str]:
    for name, info in getattr(kind, "model_fields", {}).items():
        if any(get_origin(part) in _LISTS or part in _LISTS for part in _members(info.annotation)):
            yield from (text for text in (name, info.alias, info.validation_alias) if isinstance(text, str))


def _members(annotation: Any) -> Iterator[Any]:
    """The annotation itself, or the members of a union."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_secret_field(kind: Any, loc: tuple[int | str, ...]) -> bool:
    """Whether the location leads through a field with a secret name or of a secret type (`SecretStr`)."""
    for part in loc:
        if isinstance(part, str) and is_secret_name(part):
            return True
        models = [model for model in _models_in(kind) if part in _fields_by_input_name(model)]
        if models:
            info = _fields_by_input_name(models[0])[part]
            if "Secret" in repr(info):
                return True
            kind = info.annotation
    return False


def _models_in(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _fields_by_input_name(model: Any) -> dict[Any, Any]:
    named = {}
    for name, info in model.model_fields.items():
        named[name] = info
        named.update((alias, info) for alias in (info.alias, info.validation_alias) if isinstance(alias, str))
    return named


def _secret_values(given: Any) -> Iterator[str]:
    """Every text under a secret name, however deep, so that no message can repeat it."""
    if isinstance(given, Mapping):
        for name, item in given.items():
            if is_secret_name(str(name)) and isinstance(item, str | int | float) and not isinstance(item, bool):
                yield str(item)
            yield from _secret_values(item)
    elif isinstance(given, list):
        for item in given:
            yield from _secret_values(item)
