# SPDX-License-Identifier: Apache-2.0
"""Models of one recurrent node, with all that the ONNX operators may have."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
NAME = "/l/cell"
STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 7, 6
FLOAT = TensorProto.FLOAT


def save(
    path: Path,
    op: str,
    *,
    directions: int = 1,
    has: tuple[str, ...] = ("bias",),
    size: tuple[int, int, int, int] = (STEPS, BATCH, WIDTH, HIDDEN),
    is_free: bool = False,
    **attributes: Any,
) -> dict[str, NDArray]:
    """Write the model; gives inputs for it. `has`: bias, lengths, h0, c0, peepholes."""
    rng, (steps, batch, width, hidden) = np.random.default_rng(1), size
    rows = GATES[op] * hidden
    held = {"w": (directions, rows, width), "r": (directions, rows, hidden)}
    held |= {"b": (directions, 2 * rows)} if "bias" in has else {}
    held |= {"p": (directions, 3 * hidden)} if "peepholes" in has else {}
    feed: dict[str, NDArray] = {"x": normal(rng, steps, batch, width)}
    if "lengths" in has:
        feed["lengths"] = np.array([steps, 2, 1][:batch], np.int32)
    feed |= {s: normal(rng, directions, batch, hidden) for s in ("h0", "c0") if s in has}
    names = ["x", "w", "r", "b", "lengths", "h0", *(["c0", "p"] if op == "LSTM" else [])]
    if directions == 2:
        attributes["direction"] = "bidirectional"
    outputs = ["y", "y_h", *(["y_c"] if op == "LSTM" else [])]
    inputs = [n if n in held or n in feed else "" for n in names]
    node = helper.make_node(op, inputs, outputs, NAME, hidden_size=hidden, **attributes)
    dims = {n: list(a.shape) for n, a in feed.items()}
    dims["x"] = ["steps", "batch", width] if is_free else dims["x"]
    kinds = {n: TensorProto.INT32 if n == "lengths" else FLOAT for n in feed}
    info = helper.make_tensor_value_info
    scale = 1 / np.sqrt(hidden)
    graph = helper.make_graph(
        [node],
        "g",
        [info(n, kinds[n], dims[n]) for n in feed],
        [info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(normal(rng, *s) * np.float32(scale), n) for n, s in held.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return feed


def normal(rng: np.random.Generator, *dims: int) -> NDArray[np.float32]:
    return rng.standard_normal(dims).astype(np.float32)
