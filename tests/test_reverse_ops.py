# SPDX-License-Identifier: Apache-2.0
"""Gradients against central differences in float64; outputs against ONNX Runtime."""

import math

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from qcompile.reverse_ops import OPS
from tests.passes.graphs import HEADER

STEP = 1e-5
# Second differences: STEP² times a third derivative of some tens, and 2^-52 ÷ STEP of rounding.
BOUND = 1e-7

# op → the node with its attributes, float shapes, arrays that have no gradient
CASES = [
    ("y = Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (a, b, c)", [(2, 4, 5, 6), (6, 4, 3, 2), 6]),
    ("y = Conv <dilations = [2, 1], group = 2> (a, b)", [(1, 4, 6, 5), (4, 2, 2, 3)]),
    ("y = Conv <group = 3, pads = [1, 1, 1, 1]> (a, b, c)", [(2, 3, 4, 4), (3, 1, 3, 3), 3]),
    ("y = Conv (a, b)", [(2, 3, 1, 1), (5, 3, 1, 1)]),
    ("y = MatMul (a, b)", [(2, 3, 4), (4, 5)]),
    ("y = MatMul (a, b)", [(2, 1, 3, 4), (5, 4, 2)]),
    ("y = Gemm <transB = 1> (a, b, c)", [(3, 4), (5, 4), 5]),
    ("y = Gemm (a, b)", [(1, 4), (4, 1)]),
    ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (a)", [(2, 2, 6, 5)]),
    ("y = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (a)", [(1, 2, 4, 4)]),
    ("y = AveragePool <kernel_shape = [2, 3], pads = [1, 1, 1, 1]> (a)", [(1, 2, 4, 5)]),
    (
        "y = AveragePool <kernel_shape = [2, 2], pads = [0, 1, 0, 1], count_include_pad = 1> (a)",
        [(1, 2, 3, 3)],
    ),
    ("y = GlobalAveragePool (a)", [(2, 3, 4, 5)]),
    *[(f"y = {op} (a)", [(3, 4)]) for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Neg", "Identity")],
    *[(f"y = {op} (a)", [(3, 4)]) for op in ("Abs", "Sign")],
    ("y = LeakyRelu <alpha = 0.25> (a)", [(3, 4)]),
    *[(f"y = {op} (a, b)", [(2, 1, 4), (3, 1)]) for op in ("Add", "Sub", "Mul")],
    ("y = Softmax <axis = 1> (a)", [(2, 3, 4)]),
    ("y = Softmax (a)", [(2, 5)]),
    ("y = LayerNormalization <axis = -1> (a, b, c)", [(2, 3, 4), 4, 4]),
    ("y = LayerNormalization <axis = 1> (a, b)", [(2, 3, 4), (3, 4)]),
    ("y = ReduceMean <keepdims = 0, axes = [1, -1]> (a)", [(2, 3, 4)]),
    ("y = ReduceMean (a)", [(2, 3)]),
    ("y = Reshape (a, i)", [(2, 3, 4)], [0, -1]),
    ("y = Flatten <axis = -1> (a)", [(2, 3, 4)]),
    ("y = Expand (a, i)", [(3, 1)], [2, 1, 4]),
    ("y = Squeeze (a, i)", [(2, 1, 4, 1)], [-1]),
    ("y = Unsqueeze (a, i)", [(2, 3)], [0, -1]),
    ("y = Transpose <perm = [2, 0, 1]> (a)", [(2, 3, 4)]),
    ("y = Concat <axis = -1> (a, b, c)", [(2, 1), (2, 3), (2, 2)]),
    ("y = Pad (a, i)", [(2, 3)], [1, 0, 0, 2]),
    ("y = Gather <axis = 1> (a, i)", [(2, 5)], [[0, 4], [4, -1]]),
]
POSITIVE = [
    ("y = Sqrt (a)", [(3, 4)]),
    ("y = Reciprocal (a)", [3]),
    ("y = Log (a)", [(3, 4)]),
    ("y = Div (a, b)", [(2, 3), 3]),
]


def as_shape(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else given


def graph_of(text: str, inputs: dict[str, NDArray]) -> ir.Model:
    kinds = {"float32": "float", "float64": "float", "int64": "int64"}
    head = ", ".join(
        f"{kinds[str(a.dtype)]}[{','.join(map(str, a.shape))}] {n}" for n, a in inputs.items()
    )
    return ir.from_onnx_text(f"{HEADER}f ({head}) => (float y) {{ {text} }}")


def check(text: str, inputs: dict[str, NDArray]) -> None:
    """The op gives what ORT gives, and its gradients are those of differences."""
    model = graph_of(text, inputs)
    node = next(iter(model.graph))
    given = [inputs[v.name] for v in node.inputs]
    y, pull = OPS[node.op_type](node, *given)
    narrow = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    assert np.allclose(session.run(None, narrow)[0], y, atol=1e-5)
    seed = np.random.default_rng(1).standard_normal(y.shape)
    found = pull(seed)
    for i, array in enumerate(given):
        if array.dtype.kind != "f":
            continue
        direction = np.random.default_rng(i).standard_normal(array.shape)

        def loss(t: float, i: int = i, direction: NDArray = direction) -> float:
            moved = [a + t * direction if k == i else a for k, a in enumerate(given)]
            return float((OPS[node.op_type](node, *moved)[0] * seed).sum())

        slope = (loss(STEP) - loss(-STEP)) / (2 * STEP)
        gradient = found[i]
        assert gradient is not None and gradient.shape == array.shape
        size = float(np.abs(gradient * direction).sum()) + 1
        assert abs(float((gradient * direction).sum()) - slope) <= BOUND * size


@pytest.mark.parametrize("case", [*CASES, *POSITIVE], ids=lambda c: c[0][4:40])
def test_gradients_are_those_of_differences(case: tuple) -> None:
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal(as_shape(s)) for n, s in zip("abc", case[1], strict=False)}
    if case in POSITIVE:
        inputs = {n: np.abs(a) + 0.5 for n, a in inputs.items()}
    if len(case) > 2:
        inputs["i"] = np.array(case[2], np.int64)
    check(case[0], inputs)


def test_slice_has_the_gradient_where_it_reads() -> None:
    arrays = {n: np.array([v], np.int64) for n, v in zip("setp", (-4, 99, 1, 2), strict=True)}
    check("y = Slice (a, s, e, t, p)", {"a": np.random.default_rng(0).random((2, 6))} | arrays)


def test_the_slope_of_erf_is_within_what_its_series_leaves() -> None:
    a = np.linspace(-3, 3, 61)
    node = next(iter(graph_of("y = Erf (a)", {"a": a}).graph))
    y, pull = OPS["Erf"](node, a)
    assert np.abs(y - np.array([math.erf(v) for v in a])).max() <= 1.5e-7
    differences = [(math.erf(v + STEP) - math.erf(v - STEP)) / (2 * STEP) for v in a]
    assert np.abs(pull(np.ones_like(a))[0] - differences).max() <= BOUND


def test_rounding_has_the_slope_1() -> None:
    a = np.float32([-1.5, 0.2, 2.5])
    node = next(iter(graph_of("y = Round (a)", {"a": a}).graph))
    y, pull = OPS["Round"](node, a)
    assert y.tolist() == [-2, 0, 2]
    assert pull(a)[0].tolist() == a.tolist()


def test_clip_power_and_where() -> None:
    a = np.random.default_rng(0).standard_normal((3, 4))
    check("y = Pow (a, i)", {"a": np.abs(a) + 0.5, "i": np.array(2, np.int64)})
    node = next(iter(graph_of("y = Clip (a, l, h)", {"a": a, "l": a[0, :1], "h": a[0, :1]}).graph))
    _, pull = OPS["Clip"](node, a, np.float64(-0.5), np.float64(0.5))
    assert np.array_equal(pull(np.ones_like(a))[0], np.abs(a) <= 0.5)
    chosen = a > 0
    _, pull = OPS["Where"](node, chosen, a, np.zeros((1, 4)))
    _, by_a, by_b = pull(np.ones_like(a))
    assert np.array_equal(by_a, chosen) and np.array_equal(by_b, (~chosen).sum(0, keepdims=True))


def test_forms_without_a_gradient_are_refused() -> None:
    a = np.zeros((2, 3))
    node = next(iter(graph_of("y = Gemm <alpha = 2.0> (a, b)", {"a": a, "b": a.T}).graph))
    with pytest.raises(NotImplementedError, match="alpha"):
        OPS["Gemm"](node, a, a.T)
    with pytest.raises(NotImplementedError, match="vector"):
        OPS["MatMul"](node, a, a[0])
