# SPDX-License-Identifier: Apache-2.0
"""qcompile for benchmarks.peers; the way is TARGET:PRESET."""

from pathlib import Path

import numpy as np

import qcompile
from benchmarks.peer_child import run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, way: str) -> None:
    """All defaults but the preset."""
    target, preset = way.split(":")
    recipe = qcompile.Recipe(preset=preset)
    qcompile.compile(model, target, output / "model.qc", recipe=recipe, calibration_data=inputs)


if __name__ == "__main__":
    run(quantize)
