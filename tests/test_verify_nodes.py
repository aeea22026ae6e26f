# SPDX-License-Identifier: Apache-2.0
"""Codes against ONNX Runtime's float QDQ nodes: a tie may go either way, nothing else may."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile import Recipe, verify_nodes
from qcompile.passes import LOWER_CPU
from qcompile.verdict import Check
from qcompile.verify_nodes import QDQ_SHARE, Recorded, check_qdq, compiled_nodes
from tests.passes.graphs import parse
from tests.passes.stages import Feed, run_lowered, run_passes, staged, with_weights

SHAPE = (4, 8, 16, 16)


def fourfold(x: NDArray) -> NDArray:
    """4 · the map of twice the size whose new pixels lie between their neighbours."""
    for axis in (2, 3):
        after = np.concatenate([x, x.take([-1], axis)], axis).take(
            range(1, x.shape[axis] + 1), axis
        )
        size = [d * 2 if i == axis else d for i, d in enumerate(x.shape)]
        x = np.stack([2 * x, x + after], axis + 1).reshape(size)
    return x


# op → (its text, scale of the output in scales of the inputs, 4 · the real result of two codes)
CASES: dict[str, tuple[str, int, Callable[[NDArray, NDArray], NDArray]]] = {
    "QAdd": ("Add (x, z)", 2, lambda a, b: 4 * (a + b)),
    "QMul": ("Mul (x, z)", 2, lambda a, b: 4 * a * b),
    "QPool": (
        "AveragePool <kernel_shape = [2, 2]> (x)",
        1,
        lambda a, _: a[..., 1:, 1:] + a[..., 1:, :-1] + a[..., :-1, 1:] + a[..., :-1, :-1],
    ),
    "QResize": (
        'Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , twice)',
        1,
        lambda a, _: fourfold(a),
    ),
}


def run(op_type: str, change: Callable[[NDArray, NDArray], NDArray]) -> list[Check]:
    """The checks of one node whose codes are `change(codes, the real numbers in codes)`."""
    text, scale, four = CASES[op_type]
    dims = ",".join(map(str, SHAPE))
    b = f", uint8[{dims}] b" if "z" in text else ""
    back = "z = DequantizeLinear (b, s, p)" if b else ""
    quantized = parse(f"""f (uint8[{dims}] a{b}) => (uint8[n,c,h,w] y)
    <float s = {{1}}, float u = {{{scale}}}, uint8 p = {{0}}, float[4] twice = {{1, 1, 2, 2}}>
    {{ x = DequantizeLinear (a, s, p)   {back}
       r = {text}   y = QuantizeLinear (r, u, p) }}""")
    rng = np.random.default_rng(3)
    feed: Feed = {v.name or "": _codes(rng) for v in quantized.graph.inputs}
    lowered = run_passes(quantized, *LOWER_CPU())
    (node,) = compiled_nodes(lowered)
    assert node.op_type == op_type
    values = run_lowered(lowered, feed).arrays
    given = [feed[name].astype(np.int64) for name in feed]
    real = four(given[0], given[-1]) / (4 * scale)
    name, is_nhwc = node.outputs[0].name or "", op_type in ("QPool", "QResize")
    codes = values[name].transpose(0, 3, 1, 2) if is_nhwc else values[name]
    assert np.abs(codes - real).max() <= 0.5  # so that `real` is what the node computes
    changed = change(codes.astype(np.int64), real).astype(np.uint8)
    changed = changed.transpose(0, 2, 3, 1) if is_nhwc else changed
    return check_qdq(lowered, quantized, [Recorded(values | {name: changed})])


def _codes(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(1, 16, SHAPE).astype(np.uint8)  # no result is clamped at 255


def _ties(real: NDArray) -> NDArray[np.bool_]:
    return np.asarray(real % 1 == 0.5)


def _other(codes: NDArray, real: NDArray) -> NDArray:
    """Every tie to its other neighbour."""
    return np.where(_ties(real), 2 * real - codes, codes)


def _shifted(codes: NDArray, real: NDArray, share: float, by: int) -> NDArray:
    """The first codes that are no ties, up to a share of all."""
    plain = np.flatnonzero(~_ties(real))[: round(share * codes.size)]
    out = codes.copy()
    out.ravel()[plain] += by
    return out


@pytest.mark.parametrize("op_type", CASES)
def test_a_tie_may_go_either_way(op_type: str) -> None:
    moved = []

    def change(codes: NDArray, real: NDArray) -> NDArray:
        moved.append(_ties(real).mean())
        return _other(codes, real)

    checks = run(op_type, change)
    assert moved[0] > 10 * QDQ_SHARE  # else the share alone would let them pass
    assert [c.passed for c in checks] == [True, True]


@pytest.mark.parametrize("op_type", CASES)
def test_one_code_apart_elsewhere_fails_above_the_share(op_type: str) -> None:
    near, share = run(op_type, lambda c, r: _shifted(_other(c, r), r, 2 * QDQ_SHARE, 1))
    assert near.passed and not share.passed
    assert share.measured == pytest.approx(2 * QDQ_SHARE, rel=0.05)  # the ties are not in it
    checks = run(op_type, lambda c, r: _shifted(_other(c, r), r, QDQ_SHARE / 2, 1))
    assert [c.passed for c in checks] == [True, True]


@pytest.mark.parametrize("op_type", CASES)
def test_two_codes_apart_fails(op_type: str) -> None:
    far, _ = run(op_type, lambda c, r: _shifted(c, r, 1 / c.size, 2))
    assert far.measured == 2 and not far.passed


@pytest.mark.parametrize("op_type", CASES)
def test_an_output_of_another_size_fails(op_type: str) -> None:
    far, _ = run(op_type, lambda c, r: c[:-1])
    assert far.measured == 256 and not far.passed


@pytest.mark.parametrize("is_tie", [False, True])
def test_one_element_of_a_small_product(is_tie: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 12 codes is above the share: it passes only where the float sums can not tell."""
    text = "f (float[2,8] x, float w) => (float[2,6] y) { m = MatMul (x, w) y = Relu (m) }"
    found = staged(with_weights(text, 0, w=(8, 6)))
    lowered = run_passes(found.quantized, *LOWER_CPU())
    node = next(n for n in compiled_nodes(lowered) if n.op_type == "QMatMul")
    values = run_lowered(lowered, found.feed).arrays
    codes = values[node.outputs[0].name or ""].copy()
    codes.ravel()[np.argmax(codes)] -= 1
    if is_tie:
        monkeypatch.setattr(verify_nodes, "sum_bound", lambda *_: lambda _: np.full(6, 0.5))
    changed = values | {node.outputs[0].name or "": codes}
    near, share = check_qdq(lowered, found.quantized, [Recorded(changed)])
    assert near.passed and share.passed == is_tie


def test_the_input_of_a_quantized_transpose_is_what_the_node_gives(tmp_path: Path) -> None:
    """ONNX Runtime, optimising, would give it dequantized where it is shown."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    stored = {"table": rng.standard_normal((11, 32)), "w": rng.standard_normal((5, 16))}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["b", 5])],
        [
            helper.make_tensor_value_info("turned", TensorProto.FLOAT, ["b", 32, 5]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 32, 16]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    data = {"i": rng.integers(0, 11, (6, 5))}
    made = qcompile.compile(
        tmp_path / "m.onnx", recipe=Recipe(preset="w8a8"), calibration_data=data
    )
    (floats,) = (c for c in made.measured["checks"] if c["rung"] == "lower: floats")
    assert floats["count"] > 0 and floats["passed"]
