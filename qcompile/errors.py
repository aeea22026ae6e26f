# SPDX-License-Identifier: Apache-2.0
"""Errors that name the object, the numbers, the rule and the cure.

Every error that a user can cause is a `QcompileError`; its text is the whole message and
`exit_code` what the command line returns. Anything else that escapes is a bug of the compiler
(exit code 1).
"""

import difflib
from collections.abc import Iterable

from qcompile.version import VERSION


class QcompileError(Exception):
    """A failure the user can read; never a traceback on the command line."""

    exit_code = 1


class InputError(QcompileError):
    """Bad usage or bad input: model, data, flag, recipe, output directory."""

    exit_code = 2


class UnsupportedError(InputError):
    """Something asked for that this build or this target cannot do."""


class VerificationError(QcompileError):
    """The artifact does not do what its graph says, or misses a limit the user set."""

    exit_code = 3


class RefusedError(VerificationError):
    """ONNX Runtime does not open what qcompile itself made, which verification found out."""

    def __init__(self, what: str, error: object) -> None:
        first = str(error).strip().splitlines()[0]
        super().__init__(
            f"verification failed; nothing was written: ONNX Runtime refuses {what}, which "
            f"qcompile {VERSION} made\n  {first}\nThis is a fault of qcompile, not of the model: "
            "report it with the command, the model if you may, and this message"
        )


class ConstraintError(QcompileError):
    """A constraint cannot be met."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """The cure for a misspelt word.

    >>> nearest("w8a9", ["w8a8", "w4a16"])
    'did you mean "w8a8"?'
    >>> nearest("zzz", ["cpu", "ort"])
    'known: cpu, ort'
    """
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f'did you mean "{close[0]}"?' if close else "known: " + ", ".join(names)
