# SPDX-License-Identifier: Apache-2.0
"""Runs on arm64: for every folder named on stdin, its model on its inputs.

A folder holds model.onnx and inputs.npz; outputs.npz is written, or error.txt. Numpy and
onnxruntime are all that this needs.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def run(folder: Path, library: str) -> None:
    """The outputs in the model's order: output_0, output_1, …"""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(library)
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(None, dict(np.load(folder / "inputs.npz")))
    np.savez(folder / "outputs.npz", **{f"output_{i}": y for i, y in enumerate(found)})


for line in sys.stdin:
    where = Path(line.strip())
    try:
        run(where, sys.argv[1])
    except Exception as error:
        (where / "error.txt").write_text(str(error))
    sys.stdout.write("done\n")
    sys.stdout.flush()
