"""What the author of a setting wrote about it: the docstring below the name, the comment above, or beside it."""

from __future__ import annotations

import ast
import io
import linecache
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from types import ModuleType

_FOR_TOOLS = re.compile(r"#\s*(?:noqa|(?:type|fmt|pragma|pyright|mypy|ruff|isort|pylint):).*")


def description(key: str, modules: Sequence[ModuleType]) -> str:
    """The description in the uppermost module that has one; empty when there is none or no source text."""
    for module in reversed(modules):
        file = getattr(module, "__file__", None)
        if file and (said := _descriptions(file).get(key)):
            return said
    return ""


@lru_cache(maxsize=64)
def _descriptions(file: str) -> dict[str, str]:
    source = "".join(linecache.getlines(file))
    try:
        comments = dict(_comments(source))
        tree = ast.parse(source)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return {}
    found: dict[str, str] = {}
    _read(tree.body, comments, found)
    return found


def _comments(source: str) -> Iterator[tuple[int, tuple[str, bool]]]:
    """(line, (text, whether it stands alone)) of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _FOR_TOOLS.fullmatch(token.string):
            yield token.start[0], (token.string.lstrip("#: ").rstrip(), not token.line[: token.start[1]].strip())


def _read(body: Iterable[ast.stmt], comments: dict[int, tuple[str, bool]], found: dict[str, str]) -> None:
    statements = list(body)
    for statement, following in zip_longest(statements, statements[1:]):
        for nested in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With):
                _read(getattr(statement, nested, ()), comments, found)
        names = [name for name in _names(statement) if name.isupper()]
        if names and (said := _docstring(following) or _above(statement, comments) or _beside(statement, comments)):
            found |= dict.fromkeys(names, said)


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.AnnAssign):
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def _docstring(statement: ast.stmt | None) -> str:
    value = (
        statement.value.value if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) else ""
    )
    return "\n".join(line.strip() for line in value.strip().splitlines()) if isinstance(value, str) else ""


def _above(statement: ast.stmt, comments: dict[int, tuple[str, bool]]) -> str:
    lines: list[str] = []
    number = statement.lineno - 1
    while number in comments and comments[number][1]:
        lines.insert(0, comments[number][0])
        number -= 1
    return "\n".join(line for line in lines if line.strip("-= "))


def _beside(statement: ast.stmt, comments: dict[int, tuple[str, bool]]) -> str:
    text, alone = comments.get(statement.end_lineno or statement.lineno, ("", True))
    return "" if alone else text
