"""Which value of a setting wins: pure decisions over declarations, overrides, environment and explicit values.

Lowest first: defaults of the base modules, of the config module, the source's `*` scope, its scope for this service,
the environment (declared names only), explicit overrides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from smartconfig.conversion import Misfit, convert, describe
from smartconfig.declarations import Declaration, Declarations, is_key
from smartconfig.shown import printable, secret_texts, shown, told
from smartconfig.sources import EVERY_SERVICE, READER, Override, Overrides
from smartrealm import redact_text

DEFAULT, SOURCE, ENVIRONMENT, EXPLICIT = "default", "source", "environment", "explicit"


_FAILED = "its validate() failed with"


@dataclass(frozen=True, slots=True, eq=False)
class Layered:
    """One layer's value of a setting, as it was written."""

    layer: str
    origin: str
    value: Any = field(repr=False)
    secret: bool = False
    author: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """What is wrong, in a sentence, and which layer says so."""

    layer: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One setting with the value in force and every layer that gives one, lowest first."""

    declaration: Declaration
    value: Any = field(repr=False)
    layers: tuple[Layered, ...]

    @property
    def secret(self) -> bool:
        return self.declaration.secret or any(layered.secret for layered in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Every setting, and every mistake: with one mistake, none of it may be used."""

    settings: Mapping[str, Setting]
    mistakes: tuple[Mistake, ...]

    def values(self) -> dict[str, Any]:
        return {key: setting.value for key, setting in self.settings.items()}

    def secrets(self) -> tuple[str, ...]:
        """Every text that must not be shown, longest first."""
        found = {text for setting in self.settings.values() for text in secret_texts(setting.value, setting.secret)}
        return tuple(sorted(found, key=lambda text: (-len(text), text)))


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What does not change while a process lives: the declarations, the environment, who we are."""

    declarations: Declarations
    service: str
    environ: Mapping[str, str] = field(repr=False)
    known: Collection[str] = ()
    """Names that are somebody else's settings: they may be given explicitly though no module declares them."""


def settle(inputs: Inputs, overrides: Overrides | None, source: str, explicit: Mapping[str, Any]) -> Outcome:
    """Stack the layers, convert what wins, check the rules. `source` is the name that origins begin with."""
    mistakes = [Mistake(DEFAULT, text) for text in inputs.declarations.mistakes]
    stacks = {key: _defaults(declaration) for key, declaration in inputs.declarations.by_key.items()}
    declarations = dict(inputs.declarations.by_key)
    if overrides is not None:
        _add_overrides(stacks, inputs, overrides, source, mistakes)
    for key, text in inputs.environ.items():
        if key in stacks:
            stacks[key].append(Layered(ENVIRONMENT, f"environment variable {key}", text))
    for key, value in explicit.items():
        if key not in stacks:
            if complaint := _unknown_explicit(key, inputs):
                mistakes.append(Mistake(EXPLICIT, complaint))
                continue
            stacks[key] = []
            declarations[key] = Declaration(key, Any)
        stacks[key].append(Layered(EXPLICIT, "explicit override", value))
    settings: dict[str, Setting] = {}
    misfits: set[str] = set()
    for key, stack in stacks.items():
        setting, mistake = _settled(declarations[key], tuple(stack), inputs)
        settings[key] = setting
        if mistake is not None:
            mistakes.append(mistake)
            misfits.add(key)
    outcome = Outcome(settings, tuple(mistakes))
    return replace(outcome, mistakes=(*mistakes, *_rules_beside(misfits, inputs, outcome)))


def _rules_beside(misfits: set[str], inputs: Inputs, outcome: Outcome) -> tuple[Mistake, ...]:
    """What the rules say, so that they are told together with values that do not fit their type: their defaults stand in."""
    if not misfits:
        return broken_rules(inputs, outcome)
    standing_in = dict(outcome.settings)
    for key in misfits:
        setting = standing_in[key]
        if not setting.declaration.defaults:
            return ()
        value = setting.declaration.defaults[-1][1]
        standing_in[key] = replace(setting, value=value)
    found = broken_rules(inputs, replace(outcome, settings=standing_in))
    about_them = tuple(f"{key} (" for key in misfits)
    return tuple(
        mistake for mistake in found if not mistake.text.startswith(about_them) and _FAILED not in mistake.text
    )


def broken_rules(inputs: Inputs, outcome: Outcome) -> tuple[Mistake, ...]:
    """What the `validate` functions of the modules say about these values; they count as the source's mistakes
    when the source says anything, because then the values without it may well be right."""
    rules = inputs.declarations.rules
    if not rules:
        return ()
    sourced = any(layered.layer == SOURCE for setting in outcome.settings.values() for layered in setting.layers)
    layer = SOURCE if sourced else DEFAULT
    secrets = outcome.secrets()
    mistakes = []
    for module, rule in rules:
        try:
            said = [str(sentence) for sentence in rule(outcome.values()) or ()]
        except Exception as error:
            said = [f"{_FAILED} {type(error).__name__}: {error}"]
        mistakes += [Mistake(layer, told(_placed(sentence, module, outcome), secrets)) for sentence in said]
    return tuple(mistakes)


def _placed(sentence: str, module: str, outcome: Outcome) -> str:
    """A rule's sentence with where the value came from, when it begins with the name of a setting."""
    key, space, rest = sentence.partition(" ")
    setting = outcome.settings.get(key)
    if setting is None or not setting.layers:
        return f"{module}: {sentence}"
    return f"{key} ({setting.layers[-1].origin}){space}{rest}"


def _defaults(declaration: Declaration) -> list[Layered]:
    return [Layered(DEFAULT, module, value) for module, value in declaration.defaults]


def _add_overrides(
    stacks: dict[str, list[Layered]], inputs: Inputs, overrides: Overrides, source: str, mistakes: list[Mistake]
) -> None:
    """The source's layers. A `*` override of a name that this service lacks is meant for others."""
    given: dict[tuple[bool, str], str] = {}
    own = [entry for entry in overrides.entries if entry.scope in (READER, inputs.service)]
    for entry in [entry for entry in overrides.entries if entry.scope == EVERY_SERVICE] + own:
        scoped = entry.scope != EVERY_SERVICE
        origin = _origin(source, entry)
        if (scoped, entry.key) in given:
            sentence = f"{printable(entry.key)} is given twice: {given[scoped, entry.key]}, and {origin}."
            mistakes.append(Mistake(SOURCE, sentence))
        given[scoped, entry.key] = origin
        if entry.key in stacks:
            stacks[entry.key].append(Layered(SOURCE, origin, entry.value, entry.secret, entry.author))
        elif scoped:
            name = inputs.declarations.name
            hint = _did_you_mean(entry.key, stacks)
            mistakes.append(
                Mistake(SOURCE, f"{printable(entry.key)} ({origin}): {name} declares no such setting{hint}")
            )


def _origin(source: str, entry: Override) -> str:
    parts = [source, f"scope {entry.scope}" if entry.scope else "", f"by {entry.author}" if entry.author else ""]
    return printable(", ".join(part for part in parts if part))


def _unknown_explicit(key: str, inputs: Inputs) -> str:
    """Flask and its extensions have settings of their own, so a new name is right, and a near miss is a mistake."""
    declared = inputs.declarations.by_key
    if key in inputs.known:
        return ""
    if not is_key(key):
        meant = key.upper() if key.upper() in declared or key.upper() in inputs.known else ""
        hint = f"; did you mean {meant}?" if meant else "."
        return f"{key} (explicit override): the name of a setting is written in upper case{hint}"
    if meant := near(key, declared):
        return f"{key} (explicit override): {inputs.declarations.name} declares no such setting; did you mean {meant}?"
    return ""


def near(key: str, names: Iterable[str], closeness: float = 0.85) -> str:
    """The name that somebody most likely meant; empty when none is near."""
    import difflib

    found = difflib.get_close_matches(key.upper(), list(names), 1, closeness)
    return found[0] if found else ""


def _did_you_mean(key: str, names: Iterable[str]) -> str:
    meant = near(key, names, 0.6)
    return f"; did you mean {meant}?" if meant else "."


def _settled(declaration: Declaration, stack: tuple[Layered, ...], inputs: Inputs) -> tuple[Setting, Mistake | None]:
    setting = Setting(declaration, None, stack)
    if not stack:
        return setting, Mistake(DEFAULT, _without_value(declaration, inputs))
    winner = stack[-1]
    try:
        return replace(setting, value=convert(winner.value, declaration.hint)), None
    except Misfit as misfit:
        expected = redact_text(misfit.told(secret=setting.secret))
        given = shown(winner.value, secret=setting.secret)
        text = f"{declaration.key} = {given} ({winner.origin}): expected {expected}."
        return setting, Mistake(winner.layer, text)


def _without_value(declaration: Declaration, inputs: Inputs) -> str:
    expected = describe(declaration.hint) + (", secret" if declaration.secret else "")
    return (
        f"{declaration.key} has no value: {inputs.declarations.name} declares no default, so give one in the "
        f"environment variable {declaration.key} or as an override (expected {expected})."
    )
