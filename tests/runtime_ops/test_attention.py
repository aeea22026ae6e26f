# SPDX-License-Identifier: Apache-2.0
"""QAttention against numerics, and what it refuses (N30)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.numerics.attention import Numbers, exp_codes, qattention, rounding_bound, scores_of
from tests.runtime_ops.single_op import build, run, session
from tests.runtime_ops.test_refusals import refusal

POINTS = {"q_zero_point": 121, "k_zero_point": 131, "v_zero_point": 117, "y_zero_point": 100}
SCALED = POINTS | {"multiplier": 2e-4, "y_multiplier": 0.9, "y_min": 2, "y_max": 251}
# L, D, S, E: one of each, round vectors and panels, few rows, several panels and blocks of rows.
SHAPES = [
    *((1, 1, 1, 1), (1, 64, 1, 64), (2, 3, 5, 7), (3, 4, 15, 16), (4, 8, 16, 17), (5, 64, 17, 33)),
    *((7, 5, 63, 64), (1, 32, 64, 65), (8, 33, 65, 63), (63, 7, 127, 1), (64, 16, 128, 8)),
    *((65, 31, 129, 66), (131, 64, 131, 64), (1, 80, 1000, 40), (2, 2048, 3, 130)),
]
NAMES = ("q", "k", "v")


def codes(rng, shape, kind):
    if kind == "extreme":
        return rng.choice(np.uint8([0, 255]), shape)
    return np.full(shape, 255, np.uint8) if kind == "equal" else rng.integers(0, 256, shape, "u1")


def operands(lead, sizes, kind="random", seed=0):
    (rows, depth, keys, width), rng = sizes, np.random.default_rng(seed)
    shapes = ((rows, depth), (depth, keys), (keys, width))
    return [codes(rng, (*lead, *shape), kind) for shape in shapes]


def expected(inputs, attributes, mask=None):
    names = [f"{name}_zero_point" for name in NAMES] + ["multiplier", "y_multiplier"]
    numbers = Numbers(*(attributes[name] for name in names))
    ends = (attributes[name] for name in ("y_zero_point", "y_min", "y_max"))
    return qattention(*inputs, mask, numbers, *ends)


def attend(inputs, attributes, mask=None, threads=2, rank=None):
    given = [*inputs, mask] if mask is not None else inputs
    output = [(TensorProto.UINT8, rank or inputs[0].ndim)]
    return run("QAttention", given, attributes, output, tuple(range(len(given))), threads)[0]


@pytest.mark.parametrize("kind", ["random", "extreme", "equal"])
@pytest.mark.parametrize("sizes", SHAPES)
def test_every_shape(sizes, kind):
    for lead in ((), (3,), (2, 2)):
        inputs = operands(lead, sizes, kind)
        for multiplier in (2e-4, 0.3, 1e-9):
            attributes = SCALED | {"multiplier": multiplier}
            np.testing.assert_array_equal(attend(inputs, attributes), expected(inputs, attributes))


@pytest.mark.parametrize("shape", [(5, 19), (1, 19), (2, 1, 5, 19), (3, 1, 1), (2, 3, 5, 1), (19,)])
def test_a_mask_broadcasts(shape):
    inputs, rng = operands((2, 3), (5, 8, 19, 6)), np.random.default_rng(1)
    mask = rng.choice(np.float32([0, -1.5, -np.inf, np.nan, np.finfo(np.float32).min, 2]), shape)
    np.testing.assert_array_equal(attend(inputs, SCALED, mask), expected(inputs, SCALED, mask))


@pytest.mark.parametrize("keys", [64, 65, 131, 200])
def test_columns_that_no_row_sees_are_0(keys):
    """Causal masks, and those of padding: whole panels are left out for some blocks of rows."""
    inputs, rng = operands((2,), (130, 8, keys, 6)), np.random.default_rng(0)
    for shift in (0, keys - 130, 40 - 130):
        mask = np.where(np.tri(130, keys, shift) > 0, np.float32(0), np.float32(-np.inf))
        np.testing.assert_array_equal(attend(inputs, SCALED, mask), expected(inputs, SCALED, mask))
    mask = rng.choice(np.float32([0, -3]), (2, 1, keys))
    mask[0, :, 7:], mask[1, :, -3:] = -np.inf, -np.inf
    np.testing.assert_array_equal(attend(inputs, SCALED, mask), expected(inputs, SCALED, mask))


def test_a_row_that_sees_nothing_is_0():
    inputs, mask = operands((), (3, 8, 19, 6)), np.zeros((3, 19), np.float32)
    mask[1] = -np.inf
    got = attend(inputs, SCALED, mask)
    np.testing.assert_array_equal(got, expected(inputs, SCALED, mask))
    assert (got[1] == SCALED["y_zero_point"]).all()
    mask[1] = np.finfo(np.float32).min  # as others write it: a mean
    even = SCALED | {"multiplier": 0.0}
    got = attend(inputs, SCALED, mask)
    np.testing.assert_array_equal(got[1:2], expected([inputs[0][1:2], *inputs[1:]], even))


@pytest.mark.parametrize(
    "ranks", [((2, 3), (2, 1), (1, 3)), ((1, 1), (4, 1), (4, 3)), ((0, 2),) * 3]
)
def test_what_leads_broadcasts(ranks):
    """As heads that share keys and values."""
    sizes = (5, 8, 19, 6)
    inputs = [operands(lead, sizes, seed=i)[i] for i, lead in enumerate(ranks)]
    np.testing.assert_array_equal(attend(inputs, SCALED), expected(inputs, SCALED))


@pytest.mark.parametrize(
    "perms",
    [
        ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3), (0, 2, 1, 3)),
        ((3, 1, 0, 2), (2, 0, 3, 1), (1, 3, 2, 0), (2, 3, 0, 1)),
    ],
)
def test_transposes_are_inside(perms):
    inputs = operands((2, 3), (21, 8, 19, 6))
    stored = [
        np.ascontiguousarray(x.transpose(np.argsort(perm)))
        for x, perm in zip(inputs, perms, strict=False)
    ]
    named = {f"{n}_perm": list(p) for n, p in zip((*NAMES, "y"), perms, strict=True)}
    got = attend(stored, SCALED | named).transpose(perms[3])
    np.testing.assert_array_equal(got, expected(inputs, SCALED))


def test_operands_are_parts_of_one_tensor():
    """As [batch, L, 3, heads, width], which one product gives."""
    rng = np.random.default_rng(0)
    qkv = rng.integers(0, 256, (2, 21, 3, 4, 8), np.uint8)
    perms = {"q": [0, 3, 1, 4], "k": [0, 3, 4, 1], "v": [0, 3, 1, 4]}
    named = {f"{n}_perm": perm for n, perm in perms.items()}
    named |= {f"{n}_index": [i] for i, n in enumerate(NAMES)}
    meant = [qkv[:, :, i].transpose([p - (p > 2) for p in perms[n]]) for i, n in enumerate(NAMES)]
    np.testing.assert_array_equal(
        attend([qkv] * 3, SCALED | named, rank=4), expected(meant, SCALED)
    )


def test_nothing_to_give():
    for sizes in ((0, 8, 19, 6), (5, 8, 19, 0)):
        assert attend(operands((2,), sizes), SCALED).shape == (2, sizes[0], sizes[3])


@pytest.mark.parametrize("operand", range(3))
def test_a_changed_code_changes_the_result(operand):
    inputs = operands((), (3, 9, 17, 5))
    other = [x.copy() for x in inputs]
    other[operand][-1, -1] ^= 255
    attributes = SCALED | {"multiplier": 1e-4, "y_multiplier": 2.0}
    assert (attend(inputs, attributes) != expected(other, attributes)).any()


def test_exponentials_keep_their_bound():
    below = np.float32([*np.linspace(0, 12, 4001), 30, 1e30, np.inf])[None]
    got = exp_codes(-below)[0].astype(np.float64)
    exact = 255 * np.exp(-below[0].astype(np.float64))
    apart = np.abs(got - exact)
    bound = 0.5 + 255 * (2.0**-18 + 2.0**-22 * np.minimum(below[0], 2**10))
    assert (apart <= bound).all()
    assert apart.max() > 0.49, "the bound is that of a rounding"


def test_softmax_of_real_numbers_is_as_near_as_the_bound_says():
    inputs, numbers = operands((2,), (9, 16, 40, 6)), Numbers(121, 131, 117, 3e-4, 0.9)
    scores = scores_of(*inputs[:2], None, numbers).astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    real = weights @ (inputs[2].astype(np.float64) - 117) * 0.9 + 100
    bound = (
        rounding_bound(*inputs, None, numbers) + 0.5 + 255 * 2.0**-22
    )  # and three roundings of y to f32
    assert (np.abs(qattention(*inputs, None, numbers, 100) - real) <= bound).all()
    broken = inputs[2].copy()
    broken[:, 0] ^= 255
    assert (np.abs(qattention(*inputs[:2], broken, None, numbers, 100) - real) > bound).any()


def test_shapes_are_inferred():
    inputs = operands((1, 2), (5, 8, 19, 6))
    dims = {0: ["b", 2, "n", 8], 1: ["b", 2, 8, "m"], 2: ["b", 2, "m", 6]}
    attributes = SCALED | {"y_perm": [0, 2, 1, 3]}
    model = build("QAttention", inputs, attributes, [(TensorProto.UINT8, 4)], (0, 1, 2), dims)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["b", "n", 2, 6]


def test_refusals():
    head, out = 'QAttention "node": ', [(TensorProto.UINT8, 2)]
    inputs = operands((), (5, 8, 19, 6))
    axes = "(docs/ops.md: some axes in any order, the index of every other one)"

    def refused(given, attributes=SCALED):
        fed = tuple(range(len(given)))
        return refusal("QAttention", given, attributes, out, fed)

    for changes, message in [
        ({"q_perm": [0, 0]}, f"q_perm is [0, 0], q_index [] {axes}. Correct q_perm."),
        (
            {"q_perm": [0, 3], "q_index": [1]},
            f"q_perm is [0, 3], q_index [1] {axes}. Correct q_perm.",
        ),
        ({"q_index": [1]}, f"q_perm is [], q_index [1] {axes}. Correct q_perm."),
        (
            {"q_perm": [0, 1], "q_index": [-1]},
            f"q_perm is [0, 1], q_index [-1] {axes}. Correct q_perm.",
        ),
        (
            {"k_perm": [0, 2, 1]},
            f"k has 2 dimensions, k_perm is [0, 2, 1], k_index [] {axes}. Correct k_perm.",
        ),
        (
            {"v_perm": [0], "v_index": [19]},
            "v is [19, 6], v_index is [19] (docs/ops.md: an index of its axis). Correct the graph.",
        ),
        (
            {"v_zero_point": 256},
            "v_zero_point = 256 is not in 0 ... 255 (docs/ops.md). Correct v_zero_point.",
        ),
        (
            {"multiplier": float("inf")},
            "multiplier = inf (docs/numerics.md N30: at most 2^96). Correct multiplier.",
        ),
    ]:
        assert refused(inputs, SCALED | changes) == head + message
    q, k, v = inputs
    rule = "(docs/ops.md: q [..., L, D], k [..., D, S], v [..., S, E]). Correct the graph."
    for given, shapes in [
        ([q, k[:7], v], "[5, 8], [7, 19] and [19, 6]"),
        ([q, k, v[:18]], "[5, 8], [8, 19] and [18, 6]"),
        ([q, k[None], v], "[5, 8], [1, 8, 19] and [19, 6]"),
    ]:
        assert refused(given) == f"{head}q, k and v are {shapes} {rule}"
    assert refused([q, k, v, np.zeros((4, 19), np.float32)]) == (
        f"{head}mask is [4, 19], the scores are [5, 19] "
        "(docs/ops.md: mask broadcasts to [..., L, S]). Correct the graph."
    )
    assert refused([q, k[:, :0], v[:0]]) == (
        f"{head}q is [5, 8], v is [0, 6] (docs/numerics.md N30: a sum of at least one term). "
        "Correct the graph."
    )
    long = np.zeros((1, 32769), np.uint8)
    assert refused([q[:1, :1], long, long.T.copy()]) == (
        f"{head}D = 1, S = 32769 (docs/numerics.md N30: at most 2^15). Use a shorter sequence."
    )
