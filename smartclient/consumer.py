"""Typed functions from the OpenAPI description of a service, as the text of a Python module. Reads and writes no file.

One function for each operation, a TypedDict for each object. The text is the same for the same description, formatted as
ruff would, and right for mypy in strict mode. Nothing of the description gets into the code but as a checked name or a
quoted text.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from smartrealm.errors import ValidationFailed

MARK = "Written by `smartclient consumer"
"""What stands in the head of every written module: only such a file is ever written over."""

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.I)
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_TAKEN = frozenset(
    "Any Literal NotRequired TypeAlias TypedDict Unpack Response call Options SERVICE options body response answer "
    "deadline retries idempotency_key fallback hedge headers session".split()
)
_FROM_TYPING = frozenset(["Any", "Literal", "NotRequired", "TypeAlias", "TypedDict"])
_BUILT_IN = frozenset(_PLAIN.values()) | {"list", "dict"}
_LONGEST_LITERAL = 40


def render(document: Any, *, service: str, source: str) -> str:
    """The module for `service`, of whose description `source` says where it is from.

    Raises ValidationFailed for a document that is no OpenAPI 3 description.
    """
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3."):
        raise ValidationFailed(f"{source} is no OpenAPI 3 description: its member `openapi` must be 3.something.")
    try:
        return _render(document, service=service, source=source)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValidationFailed(f"{source} breaks the rules of OpenAPI ({type(error).__name__}: {error}).") from error


def _render(document: Mapping[str, Any], *, service: str, source: str) -> str:
    module = _Module(document)
    functions = [_function(operation, module) for operation in module.operations()]
    types = module.types()
    title = _one_line(document.get("info", {}).get("title") or service)
    version = _one_line(document.get("info", {}).get("version") or "0")
    body = [*types, *functions]
    names = sorted(module.used & _FROM_TYPING) + (["Unpack"] if functions else [])
    if functions:
        names.insert(0, "TYPE_CHECKING")
    imported = "Response, call" if "Response" in module.used else "call"
    head = [
        f'"""{title} {version}, as functions: one for each of its operations.\n\n'
        f'{MARK} {service}` from {_one_line(source)}; do not edit.\n"""\n',
        "from __future__ import annotations\n",
        *([f"from typing import {', '.join(names)}\n"] if names else []),
        *([f"from smartclient.consumed import {imported}\n"] if functions else []),
        *(["if TYPE_CHECKING:\n    from smartclient.consumed import Options\n"] if functions else []),
        f"SERVICE = {_quoted('service://' + service)}\n",
    ]
    return "\n".join(head) + "".join(f"\n\n{part}" for part in body)


def without_origin(text: str) -> str:
    """The text of a module without its docstring, which alone names the release and the source: for comparing."""
    return text.split('"""', 2)[-1]


@dataclass(frozen=True)
class _Operation:
    name: str
    method: str
    path: str
    told: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]


@dataclass
class _Module:
    """The description with its references, and the types that the functions need."""

    document: Mapping[str, Any]
    _classes: dict[str, str] = field(default_factory=dict)  # the reference, or where it stands, and the name
    _texts: dict[str, str] = field(default_factory=dict)  # the name and the code
    _functions: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    """The names that the code needs to import."""

    def operations(self) -> list[_Operation]:
        """All of them, sorted by name; each name is an identifier of its own."""
        found: list[_Operation] = []
        for path, item in sorted((self.document.get("paths") or {}).items()):
            for method in _METHODS:
                told = item.get(method)
                if not isinstance(told, Mapping):
                    continue
                parameters = {}
                for given in (*item.get("parameters", ()), *told.get("parameters", ())):
                    one = self.resolved(given)
                    parameters[one["in"], one["name"]] = one
                name = _identifier(told.get("operationId") or f"{method}_{path}", self._functions)
                self._functions.add(name)
                found.append(_Operation(name, method.upper(), path, told, tuple(parameters.values())))
        return sorted(found, key=lambda operation: operation.name)

    def resolved(self, value: Any) -> Any:
        """The value itself, or what its reference leads to."""
        for _ in range(20):
            if not isinstance(value, Mapping) or not isinstance(value.get("$ref"), str):
                break
            value = self._at(value["$ref"])
        return value

    def type_of(self, schema: Any, place: str) -> str:
        """The Python type of a schema; what has no name of its own is named after `place`."""
        kind = self._type_of(schema, place)
        self.used.update(re.findall(r"\w+", re.sub(r'"[^"]*"', "", kind)))
        return kind

    def _type_of(self, schema: Any, place: str) -> str:
        if not isinstance(schema, Mapping) or not schema:
            return "Any"
        if isinstance(schema.get("$ref"), str):
            return self._named(schema["$ref"])
        if "const" in schema or "enum" in schema:
            return self._literal(schema.get("enum", [schema.get("const")]), place)
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                return _union(self.type_of(one, f"{place}_{at or ''}") for at, one in enumerate(schema[word]))
        if len(schema.get("allOf", ())) == 1:
            return self.type_of(schema["allOf"][0], place)
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(self.type_of({**schema, "type": one}, place) for one in kind)
        if kind == "array":
            return f"list[{self.type_of(schema.get('items'), f'{place}_item')}]"
        if kind == "object" or "properties" in schema:
            return self._object(schema, place)
        return _PLAIN.get(str(kind), "Any")

    def types(self) -> list[str]:
        """The code of the types that were asked for, sorted by name."""
        return [text for _, text in sorted(self._texts.items())]

    def _at(self, reference: str) -> Any:
        value: Any = self.document
        for part in reference.removeprefix("#/").split("/"):
            try:
                value = value[part.replace("~1", "/").replace("~0", "~")]
            except (KeyError, TypeError, IndexError):
                raise ValidationFailed(f"The description refers to {reference}, which is not in it.") from None
        return value

    def _named(self, reference: str) -> str:
        name = self._classes.get(reference)
        if name is None:
            schema = self._at(reference)
            name = self._classes[reference] = self._class_name(reference.rpartition("/")[2])
            self._texts[name] = ""  # taken: a schema may refer to itself
            if isinstance(schema, Mapping) and schema.get("properties"):
                self._texts[name] = self._typed_dict(name, schema)
            elif isinstance(schema, Mapping) and "enum" in schema and _is_literal(schema["enum"]):
                self._texts[name] = self._literal_alias(name, schema["enum"])
            else:
                self.used.add("TypeAlias")
                self._texts[name] = f"{name}: TypeAlias = {_quoted_type(self.type_of(schema, name))}\n"
        return name

    def _object(self, schema: Mapping[str, Any], place: str) -> str:
        if not schema.get("properties"):
            more = schema.get("additionalProperties", True)
            return f"dict[str, {self.type_of(more, f'{place}_value') if isinstance(more, Mapping) else 'Any'}]"
        name = self._class_name(place)
        self._texts[name] = ""
        self._texts[name] = self._typed_dict(name, schema)
        return name

    def _literal(self, values: list[Any], place: str) -> str:
        if not _is_literal(values):
            return "Any"
        inline = f"Literal[{', '.join(map(_quoted, values))}]"
        if len(inline) <= _LONGEST_LITERAL or len(values) == 1:
            return inline
        name = self._class_name(place)
        self._texts[name] = self._literal_alias(name, values)
        return name

    def _literal_alias(self, name: str, values: list[Any]) -> str:
        self.used |= {"TypeAlias", "Literal"}
        if len(values) == 1:
            return f"{name}: TypeAlias = Literal[{_quoted(values[0])}]\n"
        lines = "".join(f"    {_quoted(value)},\n" for value in values)
        return f"{name}: TypeAlias = Literal[\n{lines}]\n"

    def _class_name(self, text: str) -> str:
        words = re.findall(r"[A-Za-z0-9]+", text)
        name = "".join(word[0].upper() + word[1:] for word in words) or "Value"
        return _identifier(name, {*self._texts, *self._functions})

    def _typed_dict(self, name: str, schema: Mapping[str, Any]) -> str:
        self.used.add("TypedDict")
        required = set(schema.get("required", ()))
        members = {}
        for member, inner in schema["properties"].items():
            kind = self.type_of(inner, f"{name}_{member}")
            self.used |= set() if member in required else {"NotRequired"}
            members[member] = kind if member in required else f"NotRequired[{kind}]"
        if all(map(_can_be_member, members)):
            doc = _docstring(schema.get("description", ""), "    ")
            lines = [f"class {name}(TypedDict):", *([doc, ""] if doc else [])]
            lines += [f"    {member}: {kind}" for member, kind in members.items()]
            return "\n".join(lines) + "\n"
        pairs = "".join(f"        {_quoted(member)}: {_quoted_type(kind)},\n" for member, kind in members.items())
        return f"{name} = TypedDict(\n    {_quoted(name)},\n    {{\n{pairs}    }},\n)\n"


def _function(operation: _Operation, module: _Module) -> str:
    """The code of one function; every parameter on a line of its own, so that no line length changes it."""
    taken = set(_TAKEN)
    required: list[str] = []
    optional: list[str] = []
    sent: dict[str, list[str]] = {"variables": [], "query": []}
    slashes: list[str] = []
    for one in operation.parameters:
        where = {"path": "variables", "query": "query"}.get(one["in"])
        if where is None:
            continue  # headers are given as headers=
        name = _identifier(one["name"], taken)
        taken.add(name)
        kind = module.type_of(one.get("schema"), f"{operation.name}_{one['name']}")
        sent[where].append(f"            {_quoted(one['name'])}: {name},\n")
        if where == "variables":
            required.append(f"    {name}: {kind},\n")
            slashes += [_quoted(one["name"])] if one.get("x-may-contain-slashes") else []
        elif one.get("required"):
            optional.insert(0, f"    {name}: {kind},\n")
        else:
            optional.append(f"    {name}: {_union([kind, 'None'])} = None,\n")
    body = _json_schema(module.resolved(operation.told.get("requestBody")))
    if body is not None:
        required.append(f"    body: {module.type_of(body, f'{operation.name}_body')},\n")
    answer = _answer(operation, module)
    star = ["    *,\n"] if optional else []
    signature = "".join([*required, *star, *optional, "    **options: Unpack[Options],\n"])
    arguments = [
        "        SERVICE,\n",
        f"        {_quoted(operation.method)},\n",
        f"        {_quoted(operation.path)},\n",
        *([f"        variables={{\n{''.join(sent['variables'])}        }},\n"] if sent["variables"] else []),
        *([f"        slashes=[{', '.join(slashes)}],\n"] if slashes else []),
        *([f"        query={{\n{''.join(sent['query'])}        }},\n"] if sent["query"] else []),
        *(["        body=body,\n"] if body is not None else []),
        "        options=options,\n",
    ]
    doc = _docstring(_told(operation), "    ")
    made = f"call(\n{''.join(arguments)}    )\n"
    if answer == "None":
        end = f"    {made}"
    elif answer == "Response":
        end = f"    return {made}"
    else:
        end = f"    response = {made}    answer: {answer} = response.json()\n    return answer\n"
    return f"def {operation.name}(\n{signature}) -> {answer}:\n{doc}\n{end}"


def _told(operation: _Operation) -> str:
    told = operation.told
    summary = told.get("summary") or f"{operation.method} {operation.path}"
    old = "Deprecated." if told.get("deprecated") else ""
    return "\n\n".join(str(part) for part in (summary, told.get("description"), old) if part)


def _answer(operation: _Operation, module: _Module) -> str:
    """The type of what the function gives: of the JSON, None when there is nothing to say, else the Response."""
    kinds: list[str] = []
    for status, told in sorted((operation.told.get("responses") or {}).items()):
        if not str(status).startswith("2"):
            continue
        schema = _json_schema(module.resolved(told))
        if schema is not None:
            kinds.append(module.type_of(schema, f"{operation.name}_answer"))
        else:
            kinds.append("None" if str(status) in ("204", "205") else "Response")
    if not kinds or "Response" in kinds or ("None" in kinds and len(kinds) > 1):
        module.used.add("Response")
        return "Response"
    return _union(kinds)


def _json_schema(value: Any) -> Any:
    for kind, told in (value.get("content", {}) if isinstance(value, Mapping) else {}).items():
        if _JSON.match(kind):
            return told.get("schema", {})
    return None


def _is_literal(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(one, str | int | None) for one in values)


def _union(kinds: Iterable[str]) -> str:
    members = dict.fromkeys(part for kind in kinds for part in _split(kind))
    if "Any" in members:
        return "Any"
    return " | ".join([*(one for one in members if one != "None"), *(["None"] if "None" in members else [])])


def _split(kind: str) -> Iterator[str]:
    """The members of a union, not looking into brackets."""
    depth, begun = 0, 0
    for at, char in enumerate(kind):
        depth += (char == "[") - (char == "]")
        if char == "|" and not depth and '"' not in kind:
            yield kind[begun:at].strip()
            begun = at + 1
    yield kind[begun:].strip()


def _identifier(text: str, taken: Iterable[str]) -> str:
    """A name of letters, digits and underscores that is free; never private, never a word of Python."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "value"
    if name[0].isdigit() or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        name = f"{name}_" if not name[0].isdigit() else f"n{name}"
    taken = {*taken, *_TAKEN, *_BUILT_IN, "TYPE_CHECKING"}
    free = (one for one in (name, f"{name}_", *(f"{name}_{number}" for number in range(2, 1000))) if one not in taken)
    return next(free)


def _can_be_member(name: str) -> bool:
    """Whether it can be a member in the body of a class: a name, no private one, and none that hides a type."""
    plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return plain and not name.startswith("__") and not name[0].isupper() and name not in _BUILT_IN


def _one_line(text: Any) -> str:
    return _clean(" ".join(str(text).split()))


def _clean(text: str) -> str:
    """Text that cannot end the docstring that it stands in."""
    printable = "".join(char for char in text if char == "\n" or char.isprintable())
    return printable.replace("\\", "\\\\").replace('"""', "'''").replace('"', "'")


def _docstring(text: Any, indent: str) -> str:
    paragraphs = _clean(str(text)).strip().split("\n")
    lines = [part for line in paragraphs for part in textwrap.wrap(line, 100, break_on_hyphens=False) or [""]]
    if lines == [""]:
        return ""
    if len(lines) == 1:
        return f'{indent}"""{lines[0]}"""'
    return f'{indent}"""' + "\n".join(f"{indent}{line}".rstrip() for line in lines).strip() + f'\n{indent}"""'


def _quoted(value: Any) -> str:
    """A literal of Python as ruff would leave it: in double quotes, everything odd escaped."""
    if not isinstance(value, str):
        return repr(value)
    return '"' + "".join(char if char.isprintable() and char not in '"\\' else _escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _quoted_type(kind: str) -> str:
    """A type as text: it may name what comes later in the module."""
    return f"'{kind}'" if '"' in kind and "'" not in kind and "\\" not in kind else _quoted(kind)
