# SPDX-License-Identifier: Apache-2.0
"""Tapes of QDQ graphs: outputs are ONNX Runtime's, gradients those of the straight-through rule."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.reverse import Tape
from qcompile.session import open_model, session_options
from qcompile.tunable import ActivationScale, Adam, Bias, WeightScale, tunables, write
from tests.passes.stages import Staged, staged, with_weights

CONVS = """f (float[b,3,8,8] x, float w, float b, float d, float k, float c) => (float[b,5] y)
{ h = Conv <pads = [1,1,1,1]> (x, w, b)   r = Relu (h)
  e = Conv <group = 4, strides = [2,2]> (r, d)   s = Add (e, e)
  p = GlobalAveragePool (s)   f = Flatten (p)   y = Gemm <transB = 1> (f, k, c) }"""
SHAPES = {"w": (4, 3, 3, 3), "b": (4,), "d": (4, 1, 2, 2), "k": (5, 4), "c": (5,)}
MATRICES = """f (float[b,6,64] x, float w, float a, float u) => (float[b,6,32] y)
{ h = MatMul (x, w)   s = Add (h, a)   t = Tanh (s)   y = MatMul (t, u) }"""
OF_MATRICES = {"w": (64, 48), "a": (48,), "u": (48, 32)}


def net(text: str, preset: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Staged, Tape]:
    """A net and its tape."""
    found = staged(with_weights(text, **shapes), preset, edge_bits=4, gives_floats=True)
    tape = Tape.of(found.quantized, found.plan)
    assert isinstance(tape, Tape)
    return found, tape


def outputs(model: ir.Model, feed: dict[str, NDArray]) -> NDArray:
    options = session_options()
    if any(n.domain for n in model.graph):
        runtime_ops.register(options)
    return np.asarray(open_model(model, options).run(None, feed)[0])


NETS = [
    (CONVS, "w4a8", SHAPES),
    (CONVS, "w3a4", SHAPES),
    (MATRICES, "w4a8", OF_MATRICES),
    (MATRICES, "w4a8-dynamic", OF_MATRICES),
    (MATRICES, "w2a16", OF_MATRICES),
]


@pytest.mark.parametrize("case", NETS, ids=lambda c: f"{c[1]} {len(c[2])}")
def test_a_run_gives_what_the_graph_gives(case: tuple) -> None:
    found, tape = net(*case)
    leaves = {n: t.real() for n, t in tunables(tape).items()}
    made = tape.run(leaves, found.feed)["y"]
    theirs = outputs(found.quantized, found.feed)
    # sums in another order move a code to its neighbour now and then
    assert np.square(made - theirs).mean() < 1e-4 * theirs.var()


@pytest.mark.parametrize(
    "case", [n for n in NETS if n[1] != "w3a4"], ids=lambda c: f"{c[1]} {len(c[2])}"
)
def test_every_kind_of_number_is_moved_and_written(case: tuple) -> None:
    found, tape = net(*case)
    numbers = tunables(tape)
    kinds = {type(each) for each in numbers.values()}
    assert {WeightScale, Bias} <= kinds
    assert (ActivationScale in kinds) == (case[1] == "w4a8")
    rng = np.random.default_rng(0)
    for each in numbers.values():
        each.t = rng.uniform(-0.05, 0.05, each.t.shape).astype(np.float32)
    wanted = tape.run({n: t.real() for n, t in numbers.items()}, found.feed)["y"]
    before = outputs(found.quantized, found.feed)
    write(found.quantized, tape, numbers)
    after = outputs(found.quantized, found.feed)
    moved = np.square(after - before).mean()
    assert np.square(after - wanted).mean() < 1e-2 * moved  # float16 scales, int32 biases


def test_gradients_are_those_of_differences() -> None:
    found, tape = net(MATRICES, "w4a16", OF_MATRICES)  # nothing rounds on the way of activations
    numbers = tunables(tape)
    weights = np.random.default_rng(1).standard_normal((*found.feed["x"].shape[:2], 32))
    tape.run({n: t.real() for n, t in numbers.items()}, found.feed, keeps=True)
    gradients = tape.reverse({"y": weights.astype(np.float32)})
    assert gradients.keys() == numbers.keys()
    for name, each in numbers.items():
        slope, losses = each.slope(gradients[name]), []
        assert slope.shape == each.t.shape
        for sign in (-1, 1):
            each.t = np.full_like(each.t, sign * 1e-3)
            made = tape.run({n: t.real() for n, t in numbers.items()}, found.feed)["y"]
            losses.append(float((made * weights).sum()))
        each.t = np.zeros_like(each.t)
        difference = (losses[1] - losses[0]) / 2e-3
        assert abs(difference - float(slope.sum())) < 1e-2 * (1 + abs(difference))


def test_the_slope_of_an_activation_scale_is_that_of_lsq() -> None:
    found, tape = net(MATRICES, "w4a8", OF_MATRICES)
    step = next(s for s in tape.steps if len(s.inputs) == 2 and "scale of" in s.inputs[1])
    x = np.array([[0.0, 0.6, 1e6, -1e6]], np.float32)
    y, pull = step.op(step.node, x, np.asarray(0.5, np.float32))
    by_x, by_scale = pull(np.ones_like(x))
    assert by_x.tolist() == [[1, 1, 0, 0]]
    # 0.6 ÷ 0.5 is rounded to 1; beyond the ends the slope is the code itself
    assert by_scale == pytest.approx((1 - 1.2) + (y[0, 2] + y[0, 3]) / 0.5, rel=1e-5)
    assert found.feed


def test_ops_without_a_gradient_are_named() -> None:
    found = staged(
        with_weights(MATRICES.replace("Tanh", "Sin"), **OF_MATRICES), "w4a16", edge_bits=4
    )
    assert "Sin has no gradient here" in str(Tape.of(found.quantized, found.plan))


def test_adam_moves_against_the_gradient_by_its_rate_at_first() -> None:
    bias = Bias(np.zeros(3, np.float32), np.float32(2))
    Adam({"b": bias}).step({"b": np.array([1, -5, 0], np.float32)}, 0.01)
    assert bias.t == pytest.approx([-0.01, 0.01, 0], abs=1e-6)
    assert bias.real() == pytest.approx([-0.02, 0.02, 0], abs=1e-6)


BY_STEP = MATRICES.replace("x, float w", "x, int64[b] step, float w")


def by_step() -> tuple[Staged, Tape]:
    """A net whose scales the time step chooses, and its tape."""
    made = with_weights(BY_STEP, **OF_MATRICES)
    found = staged(made, "w4a8", edge_bits=4, gives_floats=True, timestep_input="step")
    tape = Tape.of(found.quantized, found.plan)
    assert isinstance(tape, Tape)
    return found, tape


def test_samples_of_many_time_steps_run_at_once() -> None:
    """Each has the scale of its step; the graph takes one step a run."""
    found, tape = by_step()
    leaves = {n: t.real() for n, t in tunables(tape).items()}
    x = np.random.default_rng(3).standard_normal((5, 6, 64)).astype(np.float32)
    steps = np.array([4, 0, 1, 4, 9])
    made = tape.run(leaves, {"x": x, "step": steps})["y"]
    theirs = [
        outputs(found.quantized, {"x": x[i : i + 1], "step": steps[i : i + 1]}) for i in range(5)
    ]
    assert np.square(made - np.concatenate(theirs)).mean() < 1e-4 * made.var()


def test_a_gradient_for_every_bucket() -> None:
    """Buckets without a sample in the run have none; scales are written into their tables."""
    found, tape = by_step()
    numbers = tunables(tape)
    x = np.random.default_rng(3).standard_normal((2, 6, 64)).astype(np.float32)
    buckets = found.work.stats.buckets
    assert buckets is not None and buckets.count > 1
    steps = np.full(2, np.argmax(buckets.of_step == 1))
    tape.run({n: t.real() for n, t in numbers.items()}, {"x": x, "step": steps}, keeps=True)
    gradients = tape.reverse({"y": np.ones((2, 6, 32), np.float32)})
    for name in tape.scales:
        each = numbers[name]
        slope = each.slope(gradients[name])
        assert slope.shape == each.t.shape == (buckets.count,)
        assert slope[1] != 0 and not np.delete(slope, 1).any()
        each.t = np.linspace(1.0, 1.2, buckets.count).astype(np.float32)
    feed = {"x": x, "step": steps}
    before = outputs(found.quantized, feed)
    wanted = tape.run({n: t.real() for n, t in numbers.items()}, feed)["y"]
    write(found.quantized, tape, numbers)
    after = outputs(found.quantized, feed)
    moved = np.square(after - before).mean()
    assert np.square(after - wanted).mean() < min(moved / 10, 1e-4 * after.var())
