# SPDX-License-Identifier: Apache-2.0
"""Models with bodies: both branches, carried values, several scans, bodies inside bodies."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
SHAPES = {"w": (32, 32), "v": (32, 32)}
NETS = {
    # names of one branch stand for other values in the other one and outside
    "if": """f (bool c, float[4,32] x, float[32,32] w, float[32,32] v) => (float[4,32] y)
    { a = MatMul (x, w)
      y = If (c) <then_branch = t () => (float[4,32] z) { m = MatMul (a, v) z = Relu (m) },
                  else_branch = e () => (float[4,32] z) { m = MatMul (a, w) z = Neg (m) }> }""",
    "loop": """f (int64 t, float[4,32] x, float[32,32] w, float[32,32] v)
    => (float[4,32] y, float[n,4,32] all)
    { go = Constant <value = bool {1}> ()   most = Constant <value = float {60.0}> ()
      y, all = Loop (t, go, x) <body = b (int64 i, bool q, float[4,32] s)
        => (bool r, float[4,32] z, float[4,32] seen)
        { m = MatMul (s, w) z = Tanh (m) seen = MatMul (z, v)
          k = ReduceMax <keepdims = 0> (seen) r = Less (k, most) }> }""",
    "scan": """f (float[5,4,32] x, float[4,5,32] k, float[32,32] w, float[32,32] v)
    => (float[4,32] y, float[5,4,32] o, float[4,5,32] p)
    { ax = Constant <value_ints = [0]> ()   h = ReduceMean <axes = [0], keepdims = 0> (x)
      y, o, p = Scan <num_scan_inputs = 2, scan_input_axes = [0, 1],
        scan_input_directions = [1, 0], scan_output_axes = [0, 1],
        scan_output_directions = [1, 0],
        body = b (float[4,32] s, float[4,32] x1, float[4,32] k1)
          => (float[4,32] z, float[4,32] o1, float[4,32] p1)
        { m = MatMul (s, w) n = MatMul (x1, v) j = Add (m, n) l = Add (j, k1)
          z = Tanh (l) o1 = Identity (z) p1 = Neg (m) }> (h, x, k) }""",
    "nested": """f (bool c, int64 t, float[4,32] x, float[32,32] w, float[32,32] v)
    => (float[4,32] y)
    { a = MatMul (x, w)
      y = Loop (t, , a) <body = b (int64 i, bool q, float[4,32] s) => (bool r, float[4,32] z)
        { r = Identity (q)
          z = If (c) <
            then_branch = t1 () => (float[4,32] d) { e = MatMul (s, v) d = Add (e, a) },
            else_branch = e1 () => (float[4,32] k)
              { k0 = MatMul (s, w) k1 = MatMul (x, v) k = Add (k0, k1) }> }> }""",
    # u is carried as it is, p changes in every step
    "carried": """f (int64 t, float[4,32] x, float[32,32] w, float[32,32] v) => (float[4,32] y)
    { y, w2, v2 = Loop (t, , x, w, v) <body = b (int64 i, bool q, float[4,32] s,
        float[32,32] u, float[32,32] p)
        => (bool r, float[4,32] z, float[32,32] u2, float[32,32] p2)
        { r = Identity (q) m = MatMul (s, u) z = MatMul (m, p)
          u2 = Identity (u) p2 = Neg (p) }> }""",
}
GIVEN: dict[str, list[dict[str, NDArray]]] = {
    "if": [{"c": np.array(True)}, {"c": np.array(False)}],
    "loop": [{"t": np.array(3)}, {"t": np.array(0)}],
    "scan": [{}],
    "nested": [{"c": np.array(c), "t": np.array(2)} for c in (True, False)],
    "carried": [{"t": np.array(2)}],
}
NODES = {
    "if": ["MatMul_a", "If_y/else_branch/MatMul_m", "If_y/then_branch/MatMul_m"],
    "loop": ["Loop_y/body/MatMul_m", "Loop_y/body/MatMul_seen"],
    "scan": ["Scan_y/body/MatMul_m", "Scan_y/body/MatMul_n"],
    "nested": [
        "MatMul_a",
        "Loop_y/body/If_z/else_branch/MatMul_k0",
        "Loop_y/body/If_z/else_branch/MatMul_k1",
        "Loop_y/body/If_z/then_branch/MatMul_e",
    ],
    "carried": ["Loop_y/body/MatMul_m", "Loop_y/body/MatMul_z"],
}


def save(path: Path, name: str) -> list[dict[str, NDArray]]:
    """Write the net with random weights; gives inputs that run every body."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(HEADER + NETS[name])
    for weight, shape in SHAPES.items():
        array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, weight))
    kept = [v for v in model.graph.input if v.name not in SHAPES]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    onnx.save(model, path)
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in kept}
    floats = {n: rng.standard_normal(d).astype(np.float32) for n, d in dims.items() if d}
    return [{**floats, **given} for given in GIVEN[name]]
