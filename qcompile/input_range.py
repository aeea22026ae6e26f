# SPDX-License-Identifier: Apache-2.0
"""The ranges of a model's inputs in words: LOW:HIGH for all, or NAME=LOW:HIGH with commas."""

import math

from qcompile.errors import InputError

EVERY = ""  # the name that stands for all inputs

Range = tuple[float, float]


def parse(text: str) -> dict[str, Range]:
    """Input name, or "", → (low, high); InputError for anything else.

    >>> parse("-2.2:2.7"), parse("left=0:1, right=0:255")
    ({'': (-2.2, 2.7)}, {'left': (0.0, 1.0), 'right': (0.0, 255.0)})
    """
    found: dict[str, Range] = {}
    for part in text.split(","):
        name, _, numbers = part.rpartition("=")
        name = name.strip()
        try:
            low, high = (float(word) for word in numbers.split(":"))
        except ValueError:
            raise InputError(
                f"input range {text}: LOW:HIGH is needed, or NAME=LOW:HIGH,… for several inputs"
            ) from None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"input range {part.strip()}: {low:g} is not below {high:g}")
        if name in found:
            raise InputError(f"input range {text}: two ranges for {name or 'every input'}")
        found[name] = (low, high)
    return found
