"""What can go wrong while a service is generated: one error for each documented exit code."""

from __future__ import annotations

from typing import ClassVar


class GenerateError(Exception):
    """The service was not generated. The message is one sentence: what, why, what to do. Nothing was left behind.

    `output` holds the last lines of the program that failed, when one did; `suggestion` a value that would be accepted.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, suggestion: str = "", output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion
        self.output = output


class WrongUse(GenerateError):
    """An option cannot be used, or the name is no good name for a service."""

    exit_code = 2


class TargetExists(GenerateError):
    """Something is there already. It is never touched."""

    exit_code = 3


class ToolMissing(GenerateError):
    """A program that is needed is not installed here."""

    exit_code = 4


class InstallFailed(GenerateError):
    """The requirements could not be resolved, fetched or installed."""

    exit_code = 5


class NotProven(GenerateError):
    """The new service's own tests, lint or health were red."""

    exit_code = 6


class Interrupted(BaseException):
    """A signal asked to stop; not an error, so that no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
