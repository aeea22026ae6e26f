# SPDX-License-Identifier: Apache-2.0
"""How long made-up inputs have to be: ONNX Runtime tries lengths in a process of its own.

A spectrum of 400 samples has none of 16; some maps have to be multiples of 32. Where there is too
little ONNX Runtime may also end the process (1.32: signal 8 in frames of a signal that has none).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qcompile.data import Batch, Feed
from qcompile.division import Footprint
from qcompile.element_types import NARROW
from qcompile.errors import InputError
from qcompile.op_libraries import used_op_libraries
from qcompile.recipe import Recipe
from qcompile.synthetic import LENGTH, made_up

LENGTHS = (LENGTH, 64, 256, 1024, 4096, 16384)
_SECONDS = 120
_REFUSED = 3  # the exit status where ONNX Runtime makes no session, whatever the length
_ORT_SESSION = "from onnxruntime import InferenceSession as Session"
_ANY_SESSION = "from qcompile.array_session import ArraySession as Session"  # slow to import
_CHILD = """
import sys
import numpy, onnxruntime
{session}
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
for library in sys.argv[3:]:
    options.register_custom_ops_library(library)
try:
    session = Session(sys.argv[1], options, providers=["CPUExecutionProvider"])
except Exception:
    sys.exit({refused})
with numpy.load(sys.argv[2]) as feed:
    session.run(None, dict(feed))
"""


def has_free_length(model: ir.Model) -> bool:
    """Whether an input has a free size besides the batch."""
    batch = Batch.of(list(model.graph.inputs))
    return any(
        not isinstance(size, int) and not (axis == 0 and value.name in batch.sizes)
        for value in model.graph.inputs
        for axis, size in enumerate(value.shape or ())
    )


def length_that_runs(path: Path, model: ir.Model, recipe: Recipe) -> int:
    """The first of LENGTHS that the user's model runs on, else the first.

    model: the normalised one, for its inputs. InputError where the first would end the process.
    """
    first = 0
    for length in LENGTHS:
        data = made_up(model, recipe, length)
        if Footprint.of(model, data).misfits:  # which ONNX Runtime runs, and gives nothing
            continue
        (feed,) = data
        status = _status(path, feed)
        if status == 0:
            return length
        if status == _REFUSED:  # a bfloat16 MatMul, say, which is compiled as float32
            break
        first = first or status
    if first < 0:
        raise InputError(
            f"ONNX Runtime ends with signal {-first} on random inputs of {LENGTH}, and runs on none"
            f" of up to {LENGTHS[-1]}: give --calibration-data"
        )
    return LENGTH


def _status(path: Path, feed: Feed) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "feed.npz"
        narrow = any(x.dtype in NARROW.values() for x in feed.values())
        session = _ANY_SESSION if narrow else _ORT_SESSION
        # NumPy's files have no ml_dtypes; the session makes them of wider numbers again.
        wide = {n: x.astype(np.float32) if x.dtype.kind == "V" else x for n, x in feed.items()}
        np.savez(file, **wide)  # type: ignore[arg-type]
        child = _CHILD.format(session=session, refused=_REFUSED)
        command = [sys.executable, "-c", child, str(path), str(file)]
        command += map(str, used_op_libraries())
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return 1
    return done.returncode
