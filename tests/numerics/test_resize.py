# SPDX-License-Identifier: Apache-2.0
"""QResize: N27, against loops and against ONNX Runtime's Resize of the numbers."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompile.numerics.resize import MODES, Grid, qresize
from tests.numerics import loops

GRIDS = {
    "twice": Grid("", scales=(2.0, 2.0)),
    "odd": Grid("", scales=(1.3, 0.7)),
    "sizes": Grid("", sizes=(11, 4)),
    "one row": Grid("", sizes=(1, 9)),
}
EACH = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def floats(x: np.ndarray, mode: str, grid: Grid) -> np.ndarray:
    """ONNX Runtime's linear Resize of x [B, H, W, C]."""
    scales = numpy_helper.from_array(np.array([1, 1, *grid.scales], np.float32), "scales")
    sizes = numpy_helper.from_array(np.array([*x.shape[::3], *grid.sizes]), "sizes")
    names = ["x", "", "", "sizes"] if grid.sizes else ["x", "", "scales"]
    attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
    graph = helper.make_graph(
        [helper.make_node("Resize", names, ["y"], **attributes)],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.transpose(0, 3, 1, 2).shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [sizes if grid.sizes else scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    return y.transpose(0, 2, 3, 1)


@EACH
@pytest.mark.parametrize("mode", MODES)
def test_resize_is_that_of_onnx_runtime(mode: str, grid: Grid) -> None:  # N27
    x = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    used = Grid(mode, grid.scales, grid.sizes)
    codes = qresize(x, used, 0.9371, 117, 60, 1, 254)
    real = floats((x.astype(np.float32) - 117), mode, grid).astype(np.float64) * 0.9371 + 60
    assert codes.shape == real.shape
    # Eight f32 roundings of numbers up to 255.
    limit = 0.5 + 8 * 2.0**-24 * 256
    inside = np.clip(real, 1, 254)
    assert (np.abs(codes - inside) <= limit).all()
    assert (np.abs(codes.astype(int) + 1 - inside) > limit).any()


@EACH
@pytest.mark.parametrize("mode", MODES)
def test_resize_by_loops(mode: str, grid: Grid) -> None:  # N27
    f32 = np.float32
    x = np.random.default_rng(1).integers(0, 256, (1, 4, 5, 2)).astype(np.uint8)
    used = Grid(mode, grid.scales, grid.sizes)
    codes = qresize(x, used, 1.25, 9, 3, 0, 250)
    for _, i, j, c in np.ndindex(codes.shape):
        at = []
        for axis, o, size, count in ((0, i, 4, codes.shape[1]), (1, j, 5, codes.shape[2])):
            scale = f32(grid.sizes[axis]) / f32(size) if grid.sizes else f32(grid.scales[axis])
            position = {
                "half_pixel": (f32(o) + f32(0.5)) / scale - f32(0.5),
                "asymmetric": f32(o) / scale,
                "align_corners": f32(o) * f32(size - 1) / f32(max(count - 1, 1)),
            }.get(mode, (f32(o) + f32(0.5)) / scale - f32(0.5) if count > 1 else f32(0))
            position = min(max(position, f32(0)), f32(size - 1))
            low = int(position)
            at.append((low, min(low + 1, size - 1), f32(position - f32(low))))
        (top, bottom, v), (left, right, w) = at
        rows = [
            f32(f32(int(x[0, r, left, c]) - 9) * (f32(1) - w))
            + f32(f32(int(x[0, r, right, c]) - 9) * w)
            for r in (top, bottom)
        ]
        value = f32(rows[0] * (f32(1) - v)) + f32(rows[1] * v)
        code = loops.round_half_even(float(f32(value * f32(1.25)))) + 3
        assert codes[0, i, j, c] == min(max(code, 0), 250)
