import pytest

from smartrealm import errors


def every_error(root: type[errors.SmartError]) -> list[type[errors.SmartError]]:
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(below for child in children for below in every_error(child))]


def test_each_error_has_a_code_of_its_own() -> None:
    """A code names exactly one class, so that a program can tell errors apart without reading sentences."""
    codes = [error.code for error in every_error(errors.SmartError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", every_error(errors.SmartError))
def test_each_error_is_in_the_picture(error: type[errors.SmartError]) -> None:
    """The tree in the module's docstring names every class with its status and its code."""
    picture = errors.__doc__ or ""
    line = next(line for line in picture.splitlines() if f" {error.__name__} " in line)
    assert str(error.status) in line
    assert error.code in line.split()


def test_a_message_is_never_empty() -> None:
    """An error raised without a sentence says at least what its status means."""
    assert errors.NotFound().message == "Not Found"


def test_all_configuration_mistakes_stand_in_one_message() -> None:
    """Whoever fixes the settings sees every mistake at once."""
    error = errors.ConfigurationError(mistakes=["PORT is not a number", "DATABASE_URL is empty"])
    assert str(error).splitlines()[1:] == ["  - PORT is not a number", "  - DATABASE_URL is empty"]
    assert error.mistakes == ("PORT is not a number", "DATABASE_URL is empty")
