# SPDX-License-Identifier: Apache-2.0
"""qcompile for benchmarks.peers; the setting ends with the target."""

from pathlib import Path

import numpy as np

import qcompile
from benchmarks.peer_child import Setting, run


def quantize(model: Path, inputs: dict[str, np.ndarray], output: Path, setting: Setting) -> None:
    """All defaults but the preset and its edges."""
    recipe = qcompile.Recipe(preset=setting.preset, edge_bits=setting.edge_bits)
    folder = output / "model.qc"
    qcompile.compile(model, setting.target, folder, recipe=recipe, calibration_data=inputs)


if __name__ == "__main__":
    run(quantize)
