# SPDX-License-Identifier: Apache-2.0
"""Calibration methods, one file each; OBSERVERS is the only list of them."""

from qcompile.observers.minmax import MinMax
from qcompile.observers.mse import MeanSquaredError
from qcompile.observers.observer import Observer

OBSERVERS: dict[str, type[Observer]] = {"minmax": MinMax, "mse": MeanSquaredError}

__all__ = ["OBSERVERS", "Observer"]
