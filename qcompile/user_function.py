# SPDX-License-Identifier: Apache-2.0
"""MODULE:FUNCTION: the user's own Python function, named on the command line."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from qcompile.errors import InputError


def load_function(text: str, what: str) -> Callable[..., Any]:
    """The function; the current folder is searched too, as `python -m` does."""
    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise InputError(f"{what} {text}: MODULE:FUNCTION is needed")
    if "" not in sys.path:
        sys.path.append("")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(f"{what} {text}: {error}") from None
    except (Exception, SystemExit) as error:  # the user's module
        raise InputError(f"{what} {text}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InputError(f"{what} {text}: {type(found).__name__} is no function")
    return found


def load_metric(text: str) -> Callable[[Any], float]:
    """A metric of a session that says by which name it failed."""
    function = load_function(text, "metric")

    def score(session: Any) -> float:
        found = call(text, "metric", function, session)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise InputError(f"metric {text}: {type(found).__name__} is no number") from None

    return score


def call(text: str, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns; whatever it raises is an InputError that names it."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # the user's function
        raise InputError(f"{what} {text}: {type(error).__name__}: {error}") from error
