"""`/openapi.json`: what a service answers, told in OpenAPI 3.1, made of its routes, its docstrings and its pydantic models.

It is made when it is first asked for and kept as bytes: the routes of an app do not change once it serves requests.
Probes, static files and this route itself are not in it.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Response, request
from werkzeug.routing import Rule

from smartservice.answers import Answer, answer_of

if TYPE_CHECKING:
    from smartservice.app import SmartService

ENDPOINT = "_openapi"
"""The endpoint of the route: a name that leaves `openapi` to the service's own functions."""

VERSION = "3.1.0"

SLASHES = "x-may-contain-slashes"
"""Our extension at a path parameter: `<path:rest>`. OpenAPI itself has no word for it."""

_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "TRACE")
_HIDDEN = frozenset(["static", "_healthcheck", "_metrics", ENDPOINT])
_VARIABLE = re.compile(r"<(?:[^<>:]+(?:\([^<>]*\))?:)?([^<>:]+)>")
_SCHEMAS = "#/components/schemas/"

_log = logging.getLogger("smartservice")


def install(app: SmartService) -> None:
    """Answer at OPENAPI_PATH; nothing is made before the first request for it."""
    path = app.config["OPENAPI_PATH"]
    if path:
        app.add_url_rule(path, ENDPOINT, _Page(app).show)


class _Page:
    def __init__(self, app: SmartService) -> None:
        self._app = app
        self._kept: Response | None = None

    def show(self) -> Response:
        """The description of this service in OpenAPI 3.1."""
        if self._kept is None:
            described = describe(self._app, title=self._app.service, version=self._app.config["RELEASE"])
            body = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
            self._kept = Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})
            self._kept.add_etag()
        answer = Response(self._kept.response, headers=self._kept.headers)
        return answer.make_conditional(request)  # type: ignore[return-value]


def describe(app: Flask, *, title: str, version: str = "") -> dict[str, Any]:
    """The OpenAPI document of an app: a JSON object, the same for the same code."""
    routes = sorted(_routes(app), key=lambda route: (len(route.variables), route.template))
    schemas = _Schemas()
    operations = [operation for route in routes for operation in _operations(route, schemas)]
    _name(operations)
    schemas.build()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.route.template, {}).setdefault(operation.method.lower(), operation.to_json(schemas))
    return {
        "openapi": VERSION,
        "info": {"title": str(title), "version": version or "0"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": schemas.components(), "responses": schemas.responses()},
    }


class _Route(NamedTuple):
    rule: Rule
    template: str
    variables: tuple[tuple[str, str], ...]  # the name in the template, the name in the rule
    view: Callable[..., Any]


def _routes(app: Flask) -> Iterator[_Route]:
    """Each rule that is described. Of rules that OpenAPI cannot tell apart, the later take the first one's names."""
    shapes: dict[str, list[str]] = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(str(rule.endpoint))
        if view is None or rule.endpoint.rpartition(".")[2] in _HIDDEN or rule.websocket or rule.build_only:
            continue
        own = _VARIABLE.findall(rule.rule)
        shape = _VARIABLE.sub("{}", rule.rule)
        names = shapes.setdefault(shape, own)
        template = shape.format(*(f"{{{name}}}" for name in names)) if names else shape
        yield _Route(rule, template, tuple(zip(names, own, strict=True)), view)


@dataclass
class _Operation:
    """One method of one route, with the places of its types among the schemas."""

    route: _Route
    method: str
    function: Callable[..., Any]
    answer: Answer
    body: int | None
    query: int | None
    returned: int | None
    name: str = ""

    def to_json(self, schemas: _Schemas) -> dict[str, Any]:
        summary, _, description = inspect.cleandoc(self.function.__doc__ or "").partition("\n")
        told: dict[str, Any] = {"operationId": self.name}
        if summary.strip():
            told["summary"] = summary.strip()
        if description.strip():
            told["description"] = description.strip()
        if hasattr(self.function, "__deprecated__"):
            told["deprecated"] = True
        parameters = [*_path_parameters(self.route), *self._query_parameters(schemas)]
        if parameters:
            told["parameters"] = parameters
        if self.body is not None:
            told["requestBody"] = {"required": True, "content": _json_content(schemas[self.body])}
        told["responses"] = self._responses(schemas)
        return told

    def _query_parameters(self, schemas: _Schemas) -> Iterator[dict[str, Any]]:
        if self.query is None:
            return
        schema = schemas.resolved(self.query)
        if "properties" not in schema and schema.get("type") != "object":
            yield {"name": "query", "in": "query", "style": "form", "explode": True, "schema": schema}
            return
        required = schema.get("required", ())
        for name, property in schema.get("properties", {}).items():
            told = {"name": name, "in": "query", "required": name in required, "schema": property}
            if "description" in property:
                told["description"] = property["description"]
            yield told

    def _responses(self, schemas: _Schemas) -> dict[str, Any]:
        good: dict[str, Any] = {"description": "What was asked for."}
        if self.answer.status == "204":
            good["description"] = "Done; there is nothing to say."
        elif self.returned is not None:
            good["content"] = _json_content(schemas[self.returned])
        told = {self.answer.status: good}
        if self.body is not None or self.query is not None:
            told["422"] = {"$ref": "#/components/responses/ValidationFailed"}
        told["default"] = {"$ref": "#/components/responses/Problem"}
        return told


def _operations(route: _Route, schemas: _Schemas) -> Iterator[_Operation]:
    of_class = getattr(route.view, "view_class", None)
    for method in _METHODS:
        if method not in (route.rule.methods or ()):
            continue
        function = route.view
        if of_class is not None:
            function = getattr(of_class, method.lower(), None) or of_class.dispatch_request
        wanted = getattr(function, "__validated__", None)
        answer = answer_of(function, is_resource=of_class is not None)
        yield _Operation(
            route,
            method,
            function,
            answer,
            body=schemas.place(getattr(wanted, "body", None), "validation"),
            query=schemas.place(getattr(wanted, "query", None), "validation"),
            returned=schemas.place(answer.kind, "serialization"),
        )


def _name(operations: Iterable[_Operation]) -> None:
    """Give each operation its name: endpoint and method, and what tells it from the others of the same endpoint."""
    taken: set[str] = set()
    described: set[tuple[str, str]] = set()
    for operation in operations:
        key = (operation.route.template, operation.method)
        if key in described:  # the second of two rules with the same path: not shown
            continue
        described.add(key)
        base = re.sub(r"\W", "_", f"{_words_of(operation.route)}_{operation.method.lower()}")
        variables = "_and_".join(name for name, _ in operation.route.variables)
        names = [
            base,
            *([f"{base}_by_{variables}"] if variables else []),
            f"{base}_at{_slug(operation.route.template)}",
        ]
        free = (name for name in (*names, *(f"{base}_{number}" for number in range(2, 1000))) if name not in taken)
        operation.name = next(free)
        taken.add(operation.name)


def _words_of(route: _Route) -> str:
    """The endpoint; where it is the name of a class in lower case, with its words apart: `one_team` for `OneTeam`."""
    blueprint, dot, endpoint = str(route.rule.endpoint).rpartition(".")
    name = getattr(getattr(route.view, "view_class", None), "__name__", "")
    if endpoint == name.lower():
        endpoint = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return f"{blueprint}{dot}{endpoint}"


def _slug(template: str) -> str:
    return re.sub(r"\W+", "_", template).rstrip("_")


def _path_parameters(route: _Route) -> Iterator[dict[str, Any]]:
    for name, own in route.variables:
        schema, description = _converted(route.rule._converters[own])
        told = {"name": name, "in": "path", "required": True, "schema": schema}
        yield {**told, "description": description, SLASHES: True} if description else told


def _converted(converter: Any) -> tuple[dict[str, Any], str]:
    """The schema of what a converter of werkzeug takes, and what no schema can say."""
    kinds = [kind.__name__ for kind in type(converter).__mro__]
    if "NumberConverter" in kinds:
        schema: dict[str, Any] = {"type": "integer" if "IntegerConverter" in kinds else "number"}
        least = converter.min if converter.min is not None or converter.signed else 0
        bounds = (("minimum", least), ("maximum", converter.max))
        return {**schema, **{name: bound for name, bound in bounds if bound is not None}}, ""
    if "UUIDConverter" in kinds:
        return {"type": "string", "format": "uuid"}, ""
    if "AnyConverter" in kinds:
        return {"type": "string", "enum": sorted(converter.items)}, ""
    return {"type": "string"}, "May contain slashes." if "PathConverter" in kinds else ""


def _json_content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


@dataclass
class _Schemas:
    """The types that the operations name, described together so that equal names of different models stay apart."""

    _wanted: list[tuple[Any, str]] = field(default_factory=list)
    _schemas: dict[int, Any] = field(default_factory=dict)
    _definitions: dict[str, Any] = field(default_factory=dict)

    def place(self, kind: Any, mode: str) -> int | None:
        """Ask for the description of a type; gives the place at which it will be found."""
        if kind is None:
            return None
        self._wanted.append((kind, mode))
        return len(self._wanted) - 1

    def __getitem__(self, place: int) -> Any:
        return self._schemas[place]

    def resolved(self, place: int) -> Any:
        """The description itself, where a reference leads to it."""
        schema = self._schemas[place]
        return self._definitions[schema["$ref"].removeprefix(_SCHEMAS)] if "$ref" in schema else schema

    def build(self) -> None:
        """Describe them all. A type that cannot be described (it holds a function, a socket) is any value."""
        from pydantic import TypeAdapter

        usable: list[tuple[int, Any, Any]] = []
        for place, (kind, mode) in enumerate(self._wanted):
            self._schemas[place] = {}
            try:
                adapter: Any = TypeAdapter(kind)
                adapter.json_schema(mode=mode)
                usable.append((place, mode, adapter))
            except Exception as error:
                _log.warning("openapi: %r cannot be described: %s", kind, type(error).__name__)
        found, shared = TypeAdapter.json_schemas(usable, ref_template=f"{_SCHEMAS}{{model}}")
        self._schemas.update((key[0], schema) for key, schema in found.items())
        self._definitions = dict(shared.get("$defs", {}))

    def components(self) -> dict[str, Any]:
        return dict(sorted({**self._definitions, **self._problems()}.items()))

    def responses(self) -> dict[str, Any]:
        problem, invalid = self._problems()
        return {
            "Problem": _problem_response("The request failed (RFC 9457).", problem),
            "ValidationFailed": _problem_response("The request does not fit; every mistake is named.", invalid),
        }

    def _problems(self) -> dict[str, Any]:
        """Our own two schemas, under names that no model of the service has."""
        problem, invalid = (self._free(name) for name in ("Problem", "ValidationProblem"))
        mistake = {"type": "object", "properties": _MISTAKE, "required": ["detail"]}
        errors = {"type": "object", "properties": {"errors": {"type": "array", "items": mistake}}}
        return {problem: _PROBLEM, invalid: {"allOf": [{"$ref": _SCHEMAS + problem}, errors]}}

    def _free(self, name: str) -> str:
        while name in self._definitions:
            name += "_"
        return name


def _problem_response(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": _SCHEMAS + schema}}},
    }


_MISTAKE = {
    "pointer": {"type": "string", "description": "Where in the body: a fragment of RFC 6901."},
    "parameter": {"type": "string", "description": "Which query parameter."},
    "detail": {"type": "string"},
}
_PROBLEM = {
    "type": "object",
    "description": "A failed request, as every service answers it.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The id of the request."},
        "code": {"type": "string", "description": "A stable word that programs may compare."},
    },
    "required": ["type", "title", "status", "code"],
}
