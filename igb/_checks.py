"""Checks of user input; each error message makes sense alone on one line."""

import math
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

from omegaconf.errors import OmegaConfBaseException


class InputError(ValueError):
    """A value, file or folder that igb cannot work with; its one-line message names it and says what is expected."""


def number(name: str, value: Any, *, at_least: float = -math.inf, at_most: float = math.inf) -> float:
    """Return `value` if it is a finite number within the two bounds; raise InputError otherwise."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not at_least <= value <= at_most:
        raise InputError(f"{name}={value} must be a finite number{_bounds(at_least, at_most)}")
    return float(value)


def integer(name: str, value: Any, *, at_least: int, at_most: float = math.inf) -> int:
    """Return `value` if it is a whole number within the two bounds; raise InputError otherwise."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not at_least <= value <= at_most:
        raise InputError(f"{name}={value} must be a whole number{_bounds(at_least, at_most)}")
    return int(value)


def seed(name: str, value: object) -> int:
    """Return `value` if every random generator accepts it as a seed; raise InputError otherwise."""
    return integer(name, value, at_least=0, at_most=2**32 - 1)


def boolean(name: str, value: object) -> bool:
    """Return `value` if it is true or false; raise InputError otherwise."""
    if not isinstance(value, bool):
        raise InputError(f"{name}={value} must be true or false")
    return value


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`; raise InputError otherwise."""
    if not isinstance(value, str) or value not in (options := tuple(options)):
        raise InputError(f"{name}={value} must be one of {', '.join(options)}")
    return value


def one_line(error: BaseException | str) -> str:
    """The message of an error on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def within(group: str) -> Iterator[None]:
    """Name the config group in every InputError raised inside, so that `gamma=-1 ...` becomes `loss.gamma=-1 ...`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{group}.{error}") from error


@contextmanager
def one_line_exit() -> Iterator[None]:
    """Exit with one line for bad input, and with a traceback for any other error.

    Hydra would only log a warning for an error in a callback.
    """
    try:
        yield
    except Exception as error:
        known = isinstance(error, InputError | OmegaConfBaseException | OSError)
        if not known or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        sys.exit(f"igb: {describe(error)}")


def describe(error: Exception) -> str:
    """An error on one line, with its type unless it is one of igb's own."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"


def _bounds(at_least: float, at_most: float) -> str:
    if math.isfinite(at_least) and math.isfinite(at_most):
        return f" from {at_least} to {at_most}"
    return f" of at least {at_least}" if math.isfinite(at_least) else ""
