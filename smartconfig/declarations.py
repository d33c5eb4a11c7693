"""What a module of defaults declares: the upper-case names, their types, defaults and marks."""

from __future__ import annotations

import importlib
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

from smartconfig.marks import NEEDS_RESTART, SECRET, Mark
from smartrealm import ConfigurationError, redact_text
from smartrealm.redaction import is_secret_name


class _Missing:
    def __repr__(self) -> str:
        return "<no default>"


_known_hints: weakref.WeakKeyDictionary[ModuleType, tuple[dict[str, Any], dict[str, Any]]] = weakref.WeakKeyDictionary()
"""Reading annotations is half the work of a load, and tests load the same modules again and again."""

_BARE_FINAL = (Final, "Final", "typing.Final")
"""They say nothing about the type, and `typing.get_type_hints` refuses the written ones."""

MISSING: Final = _Missing()
"""The default of a setting that is only annotated: somebody has to give its value."""


class ModuleMissing(ConfigurationError):
    """There is no module of that name."""


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """One setting, as the modules of defaults declare it, lowest first."""

    key: str
    hint: Any
    """What a value has to fit: a type as `typing` writes it, or Any. Our marks on the outside are taken off."""
    defaults: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    """(module name, value) of every module that gives one, lowest first."""
    marks: frozenset[Mark] = frozenset()

    @property
    def secret(self) -> bool:
        """Marked `Secret`, or named like one; a switch (`USE_TOKEN: bool`) is secret only when marked."""
        return SECRET in self.marks or (self.hint is not bool and is_secret_name(self.key))

    @property
    def needs_restart(self) -> bool:
        return NEEDS_RESTART in self.marks


@dataclass(frozen=True, slots=True, eq=False)
class Declarations:
    """Everything that a stack of modules declares, the rules across settings, and what is wrong with them."""

    modules: tuple[ModuleType, ...]
    by_key: Mapping[str, Declaration]
    rules: tuple[tuple[str, Callable[[Mapping[str, Any]], Iterable[str]]], ...] = ()
    mistakes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the uppermost module."""
        return self.modules[-1].__name__


def find_module(module: str | ModuleType) -> ModuleType:
    """The module itself. Raises ModuleMissing when there is none, ConfigurationError when importing it fails."""
    if isinstance(module, ModuleType):
        return module
    if not isinstance(module, str) or not module or module.startswith("."):
        raise ConfigurationError(
            f"Name the config module, such as 'identity.config', or give the module; not {module!r}."
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ModuleMissing(
                f"There is no module {module}; is the directory that holds `{module.partition('.')[0]}` on sys.path "
                "(run from there, or set PYTHONPATH)?"
            ) from error
        raise ConfigurationError(
            f"Importing {module} failed: it needs {error.name}, which is not installed."
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"Importing {module} failed with {type(error).__name__}: {redact_text(str(error))}"
        ) from error


def declare(modules: Sequence[ModuleType]) -> Declarations:
    """Read a stack of modules, lowest first.

    The uppermost annotation of a name gives its type, the uppermost default its value; marks add up, so what is secret
    below stays secret above. A function `validate` that a module defines is a rule across its settings.
    """
    found: dict[str, Declaration] = {}
    mistakes: list[str] = []
    rules = []
    for module in modules:
        hints = _hints(module, mistakes)
        values = {key: value for key, value in vars(module).items() if _is_setting(key, value)}
        for key in {**hints, **values}:
            found[key] = _stacked(
                found.get(key), module.__name__, key, hints.get(key, MISSING), values.get(key, MISSING)
            )
        rule = vars(module).get("validate")
        if isinstance(rule, types.FunctionType) and rule.__module__ == module.__name__:
            rules.append((module.__name__, rule))
    finished = {key: _with_hint(declaration) for key, declaration in found.items()}
    return Declarations(tuple(modules), finished, tuple(rules), tuple(mistakes))


def is_key(key: str) -> bool:
    """Whether a name is written like a setting: upper case, no leading underscore (as Flask reads them)."""
    return key.isupper() and key.isidentifier() and not key.startswith("_")


def _is_setting(key: str, value: Any) -> bool:
    """Whether a default is one: not a module, nor a class or function of that very name (`from uuid import UUID`)."""
    if isinstance(value, type | types.FunctionType) and value.__name__ == key:
        return False
    return is_key(key) and not isinstance(value, ModuleType | TypeVar)


def _stacked(below: Declaration | None, module: str, key: str, hint: Any, value: Any) -> Declaration:
    declaration = below or Declaration(key, MISSING)
    if hint is not MISSING:
        plain, marks = unmarked(hint)
        declaration = replace(declaration, hint=plain, marks=declaration.marks | marks)
    if value is not MISSING:
        declaration = replace(declaration, defaults=(*declaration.defaults, (module, value)))
    return declaration


def _with_hint(declaration: Declaration) -> Declaration:
    """A name without a written type takes the type of its default; None says nothing about the type."""
    if declaration.hint is not MISSING and not isinstance(declaration.hint, TypeVar):
        return declaration
    default = declaration.defaults[-1][1] if declaration.defaults else None
    return replace(declaration, hint=Any if default is None else type(default))


def _hints(module: ModuleType, mistakes: list[str]) -> dict[str, Any]:
    everything = vars(module).get("__annotations__", {})
    written = {key: hint for key, hint in everything.items() if is_key(key) and hint not in _BARE_FINAL}
    known = _known_hints.get(module)
    if known is not None and known[0] == written:
        return known[1]
    try:
        hints = _resolved(module, written)
    except Exception:
        hints = {}
    else:
        _known_hints[module] = (written, hints)
        return hints
    for key, hint in written.items():
        try:
            hints |= _resolved(module, {key: hint})
        except Exception as error:
            mistakes.append(f"{key} ({module.__name__}): its annotation {hint!r} cannot be read: {error}.")
            hints[key] = Any
    return hints


def _resolved(module: ModuleType, written: Mapping[str, Any]) -> dict[str, Any]:
    carrier = ModuleType(module.__name__)
    carrier.__annotations__ = dict(written)
    return typing.get_type_hints(carrier, globalns=vars(module), localns={}, include_extras=True)


def unmarked(hint: Any) -> tuple[Any, frozenset[Mark]]:
    """The type without `Final` and our marks on the outside, and every mark found anywhere in it."""
    if get_origin(hint) is Final:
        return unmarked(get_args(hint)[0])
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        plain, marks = unmarked(inner)
        # `Annotated[str, Secret]` says the same as `Secret[str]`: there the mark is an alias that holds a mark.
        aliases = [item for item in metadata if get_origin(item) is Annotated]
        rest = tuple(item for item in metadata if not isinstance(item, Mark) and item not in aliases)
        marks |= {item for item in metadata if isinstance(item, Mark)}
        marks |= {mark for alias in aliases for mark in unmarked(alias)[1]}
        return (Annotated[(plain, *rest)] if rest else plain), marks
    return hint, _marks_inside(hint)


def _marks_inside(hint: Any) -> frozenset[Mark]:
    """`list[Secret[str]]`, `Secret[str] | None`, a model with a secret field, pydantic's own secret types."""
    marks: frozenset[Mark] = frozenset()
    if getattr(hint, "__module__", "") == "pydantic.types" and "get_secret_value" in dir(hint):
        marks |= {SECRET}
    fields = getattr(hint, "model_fields", None) if isinstance(hint, type) else None
    if isinstance(fields, dict):
        for described in fields.values():
            marks |= {item for item in getattr(described, "metadata", ()) if isinstance(item, Mark)}
            marks |= unmarked(described.annotation)[1] if described.annotation is not hint else frozenset()
    for part in get_args(hint):
        if not isinstance(part, str | bytes | int):
            marks |= unmarked(part)[1]
    return marks


def loaded(names: Sequence[str | ModuleType]) -> tuple[ModuleType, ...]:
    """The modules of a stack, every name at most once."""
    return tuple(dict.fromkeys(find_module(name) for name in names))


def package_of(module: ModuleType) -> str:
    """The name that a service takes from its config module when nobody gives one: its uppermost package."""
    if module.__name__ == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        return spec.name if spec else "main"
    return module.__name__
