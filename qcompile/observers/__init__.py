# SPDX-License-Identifier: Apache-2.0
"""Calibration methods, one file each; OBSERVERS is the only list of them."""

from qcompile.formats import Format
from qcompile.observers.entropy import Entropy
from qcompile.observers.minmax import MinMax
from qcompile.observers.moving_average import MovingAverage
from qcompile.observers.mse import MeanSquaredError
from qcompile.observers.observer import Observer
from qcompile.observers.percentile import Percentile

OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquaredError,
}


def observer_of(method: str, percentile: float, format: Format) -> Observer:
    """An observer of the method; `percentile` is for the method of that name."""
    return Percentile(format, percentile) if method == "percentile" else OBSERVERS[method](format)


def default_method(format: Format) -> str:
    """What chooses ranges where the user does not: mse below 8 bits, where steps are large.

    The extremes of a tensor cost every value its precision there; architecture.md has the numbers.

    >>> import qcompile.formats as formats
    >>> default_method(formats.get("uint8")), default_method(formats.get("uint7"))
    ('minmax', 'mse')
    """
    return "minmax" if format.bits >= 8 else "mse"


__all__ = ["OBSERVERS", "Observer", "default_method", "observer_of"]
