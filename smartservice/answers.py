"""What a view says of its answer: the type in its return annotation, or the one that `validated(returns=...)` names."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from werkzeug.wrappers import Response

_STREAMS = (collections.abc.Iterator, collections.abc.Generator, collections.abc.AsyncIterator)
_COROUTINES = (collections.abc.Awaitable, collections.abc.Coroutine)


@dataclass(frozen=True)
class Answer:
    """The type of the JSON that a view answers with, None when nobody can tell, and its status."""

    kind: Any = None
    status: str = "2XX"
    """`2XX`: whatever the view decides; a number where the annotation says it: `tuple[Team, Literal[201]]`."""


def answer_of(function: Callable[..., Any], *, is_resource: bool) -> Answer:
    """Read what a view returns. A plain view's text is no JSON; a resource's is."""
    annotation = _return_annotation(function)
    status = "200"
    if annotation is inspect.Parameter.empty:
        status, annotation = "2XX", None
    elif (
        get_origin(annotation) is tuple and 2 <= len(get_args(annotation)) <= 3 and Ellipsis not in get_args(annotation)
    ):
        annotation, said, *_ = get_args(annotation)
        status = str(get_args(said)[0]) if get_origin(said) is Literal and len(get_args(said)) == 1 else "2XX"
    returns = getattr(getattr(function, "__validated__", None), "returns", None)
    if returns is not None:
        return Answer(returns, status)
    if _can_be_anything(annotation, is_resource):
        return Answer(None, "2XX" if status == "200" else status)
    return Answer(annotation, status)


def _return_annotation(function: Callable[..., Any]) -> Any:
    """The annotation as a type; empty when there is none or its names cannot be found."""
    function = inspect.unwrap(function)
    raw = getattr(function, "__annotations__", {}).get("return", inspect.Parameter.empty)
    if raw is inspect.Parameter.empty:
        return raw
    alone = types.SimpleNamespace(__annotations__={"return": raw})
    try:
        found = get_type_hints(alone, globalns=getattr(function, "__globals__", {}), include_extras=True)["return"]
    except Exception:  # a name that is imported for type checkers only, or made inside of a function
        return inspect.Parameter.empty
    return get_args(found)[-1] if get_origin(found) in _COROUTINES else found


def _can_be_anything(annotation: Any, is_resource: bool) -> bool:
    if annotation in (Any, None, type(None), object, bytes) or isinstance(annotation, str):
        return True
    if annotation is str:
        return not is_resource
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return any(_can_be_anything(member, is_resource) for member in members)
    kind = origin or annotation
    return isinstance(kind, type) and issubclass(kind, (Response, *_STREAMS))
