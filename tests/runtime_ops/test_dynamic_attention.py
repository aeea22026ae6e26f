# SPDX-License-Identifier: Apache-2.0
"""QDynamicAttention against numerics, and what it refuses (N32)."""

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.numerics.dynamic_attention import (
    code_operands,
    dynamic_rounding_bound,
    qdynamic_attention,
)
from qcompile.verify_nodes import float_ratio
from tests.runtime_ops.single_op import build, run, session
from tests.runtime_ops.test_attention import NAMES, SHAPES
from tests.runtime_ops.test_refusals import refusal

SCALED = {"multiplier": 0.25}


def floats(rng, shape, kind):
    if kind == "equal":
        return np.full(shape, 1.25, np.float32)
    if kind == "extreme":  # the largest codes, scales far apart, zeros
        return rng.choice(np.float32([-3e4, 3e4, 1e-30, 0]), shape)
    return rng.standard_normal(shape).astype(np.float32) * np.float32(2) + np.float32(0.5)


def operands(lead, sizes, kind="random", seed=0):
    (rows, depth, keys, width), rng = sizes, np.random.default_rng(seed)
    shapes = ((rows, depth), (depth, keys), (keys, width))
    return [floats(rng, (*lead, *shape), kind) for shape in shapes]


def attend(inputs, attributes, mask=None, threads=2, rank=None):
    given = [*inputs, mask] if mask is not None else inputs
    output = [(TensorProto.FLOAT, rank or inputs[0].ndim)]
    return run("QDynamicAttention", given, attributes, output, tuple(range(len(given))), threads)[0]


def assert_same(inputs, attributes, mask=None, got=None):
    """Within the bound, which is 0 where codes are multiplied."""
    value, bound = qdynamic_attention(*inputs, mask, attributes["multiplier"])
    got = attend(inputs, attributes, mask) if got is None else got
    assert got.shape == value.shape
    assert float_ratio(value, got, bound) <= 1


@pytest.mark.parametrize("kind", ["random", "extreme", "equal"])
@pytest.mark.parametrize("sizes", SHAPES)
def test_every_shape(sizes, kind):
    for lead in ((), (3,), (2, 2)):
        for multiplier in (0.25, 3.0, -1e-9):
            assert_same(operands(lead, sizes, kind), {"multiplier": multiplier})


@pytest.mark.parametrize("shape", [(5, 19), (1, 19), (2, 1, 5, 19), (3, 1, 1), (2, 3, 5, 1), (19,)])
def test_a_mask_broadcasts(shape):
    inputs, rng = operands((2, 3), (5, 8, 19, 6)), np.random.default_rng(1)
    mask = rng.choice(np.float32([0, -1.5, -np.inf, np.nan, np.finfo(np.float32).min, 2]), shape)
    assert_same(inputs, SCALED, mask)


@pytest.mark.parametrize("keys", [64, 65, 131, 200])
def test_columns_that_no_row_sees_are_0(keys):
    """Causal masks, and those of padding: whole panels are left out for some blocks of rows."""
    inputs, rng = operands((2,), (130, 8, keys, 6)), np.random.default_rng(0)
    for shift in (0, keys - 130, 40 - 130):
        mask = np.where(np.tri(130, keys, shift) > 0, np.float32(0), np.float32(-np.inf))
        assert_same(inputs, SCALED, mask)
    mask = rng.choice(np.float32([0, -3]), (2, 1, keys))
    mask[0, :, 7:], mask[1, :, -3:] = -np.inf, -np.inf
    assert_same(inputs, SCALED, mask)


def test_a_row_that_sees_nothing_is_0():
    inputs, mask = operands((), (3, 8, 19, 6)), np.zeros((3, 19), np.float32)
    mask[1] = -np.inf
    assert_same(inputs, SCALED, mask)
    assert (attend(inputs, SCALED, mask)[1] == 0).all()


@pytest.mark.parametrize("length", [1, 5, 13, 130])
@pytest.mark.parametrize(
    "leads",
    [
        *(((2, 4), (2, 2), (2, 4)), ((2, 4), (2, 1), (1, 2)), ((1, 6), (3, 2), (3, 3))),
        *(((8,), (2,), (4,)), ((0, 2),) * 3, ((2, 3), (0, 1), (0, 3))),
    ],
)
def test_heads_are_shared(leads, length):
    """As grouped-query attention has them: each as often in a row as there are heads of q."""
    sizes = (length, 8, 19, 6)
    inputs = [operands(lead, sizes, seed=i)[i] for i, lead in enumerate(leads)]
    if 0 in inputs[1].shape and 0 not in inputs[0].shape:
        inputs[0] = inputs[0][:1]
    assert_same(inputs, SCALED)


@pytest.mark.parametrize("rows", [3, 21])
@pytest.mark.parametrize(
    "perms",
    [
        ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3), (0, 2, 1, 3)),
        ((3, 1, 0, 2), (2, 0, 3, 1), (1, 3, 2, 0), (2, 3, 0, 1)),
    ],
)
def test_transposes_are_inside(perms, rows):
    inputs = operands((2, 3), (rows, 8, 19, 6))
    stored = [
        np.ascontiguousarray(x.transpose(np.argsort(perm)))
        for x, perm in zip(inputs, perms, strict=False)
    ]
    named = {f"{n}_perm": list(p) for n, p in zip((*NAMES, "y"), perms, strict=True)}
    got = attend(stored, SCALED | named).transpose(perms[3])
    assert_same(inputs, SCALED, got=got)


def test_operands_are_parts_of_one_tensor():
    """As [batch, L, 3, heads, width], which one product gives."""
    qkv = floats(np.random.default_rng(0), (2, 21, 3, 4, 8), "random")
    perms = {"q": [0, 3, 1, 4], "k": [0, 3, 4, 1], "v": [0, 3, 1, 4]}
    named = {f"{n}_perm": perm for n, perm in perms.items()}
    named |= {f"{n}_index": [i] for i, n in enumerate(NAMES)}
    meant = [qkv[:, :, i].transpose([p - (p > 2) for p in perms[n]]) for i, n in enumerate(NAMES)]
    assert_same(meant, SCALED, got=attend([qkv] * 3, SCALED | named, rank=4))


@pytest.mark.parametrize("operand", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [15, 16])
def test_what_is_no_number_is_seen(operand, bad, rows):
    """In q its row, in k its head, in v its channel, and nothing else."""
    inputs = operands((2,), (rows, 16, 33, 20))
    inputs[operand][1, 3, 2] = bad
    assert_same(inputs, SCALED)
    lost = np.isnan(attend(inputs, SCALED))
    assert not lost[0].any()
    where = (np.s_[1, 3], np.s_[1], np.s_[1, :, 2])[operand]
    assert lost[where].all()
    assert lost.sum() == lost[where].size


def test_nothing_to_give():
    for sizes in ((0, 8, 19, 6), (5, 8, 19, 0)):
        assert attend(operands((2,), sizes), SCALED).shape == (2, sizes[0], sizes[3])


@pytest.mark.parametrize("operand", range(3))
@pytest.mark.parametrize("rows", [3, 33])
def test_a_changed_number_breaks_the_bound(operand, rows):
    inputs = operands((), (rows, 9, 17, 5))
    other = [x.copy() for x in inputs]
    other[operand][-1, -1] += 1
    value, bound = qdynamic_attention(*other, None, 0.25)
    assert float_ratio(value, attend(inputs, SCALED), bound) > 1


@pytest.mark.parametrize("kind", ["random", "equal"])
def test_attention_of_the_codes_is_as_near_as_the_bound_says(kind):
    inputs = operands((2,), (19, 16, 40, 6), kind)
    coded = code_operands(*inputs)
    q, k, v = (x.astype(np.float64) for x in coded.dequantized())
    weights = np.exp(q @ k * 0.25 - (q @ k * 0.25).max(-1, keepdims=True))
    real = weights / weights.sum(-1, keepdims=True) @ v
    bound = dynamic_rounding_bound(coded, None, 0.25)
    got = attend(inputs, SCALED)
    assert (np.abs(got - real) <= bound).all()
    broken = coded.v.copy()
    broken[:, 0] ^= 127
    changed = weights / weights.sum(-1, keepdims=True) @ (broken * coded.v_scale.astype(np.float64))
    assert (np.abs(got - changed) > bound).any()


def test_keys_without_their_mean_are_nearer():
    """What all keys have in common costs codes, and softmax does not see it."""
    q, k, v = operands((4,), (32, 32, 64, 16))
    k += 20 * np.random.default_rng(1).standard_normal((4, 32, 1)).astype(np.float32)
    scores = q.astype(np.float64) @ k.astype(np.float64) * 0.25
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    real = weights / weights.sum(-1, keepdims=True) @ v
    scale = np.abs(k).max(-2, keepdims=True) / 127
    scores = q.astype(np.float64) @ (np.rint(k / scale) * scale) * 0.25
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    plain = weights / weights.sum(-1, keepdims=True) @ v
    got = attend([q, k, v], SCALED)
    assert ((got - real) ** 2).sum() < ((plain - real) ** 2).sum() / 10


def test_shapes_are_inferred():
    inputs = operands((1, 4), (5, 8, 19, 6))
    inputs[1], inputs[2] = inputs[1][:, :2], inputs[2][:, :2]
    dims = {0: ["b", 4, "n", 8], 1: ["b", 2, 8, "m"], 2: ["b", 2, "m", 6]}
    attributes = SCALED | {"y_perm": [0, 2, 1, 3]}
    outputs = [(TensorProto.FLOAT, 4)]
    model = build("QDynamicAttention", inputs, attributes, outputs, (0, 1, 2), dims)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["b", "n", 4, 6]


@pytest.mark.parametrize("keys", [2**15, 2**15 + 1])
def test_more_keys_than_int32_sums_hold_are_floats(keys):
    inputs = operands((), (16, 4, keys, 2))
    assert_same(inputs, SCALED)
    assert (qdynamic_attention(*inputs, None, 0.25)[1].max() > 0) == (keys > 2**15)


def test_refusals():
    head, out = 'QDynamicAttention "node": ', [(TensorProto.FLOAT, 2)]
    q, k, v = operands((), (5, 8, 19, 6))

    def refused(given, attributes=SCALED):
        return refusal("QDynamicAttention", given, attributes, out, tuple(range(len(given))))

    assert refused([q, k, v], {"multiplier": float("inf")}) == (
        f"{head}multiplier = inf (docs/numerics.md N32: a finite number). Correct multiplier."
    )
    assert refused([q, k, v], SCALED | {"softmax_format": "log2_4"}) == (
        f'{head}softmax_format = "log2_4"; it is uint8, for few rows have no codes '
        "(docs/numerics.md N32). Leave softmax_format out."
    )
    rule = "(docs/ops.md: q [..., L, D], k [..., D, S], v [..., S, E]). Correct the graph."
    for given, shapes in [
        ([q, k[:7], v], "[5, 8], [7, 19] and [19, 6]"),
        (
            [q[None].repeat(3, 0), k[None].repeat(2, 0), v[None]],
            "[3, 5, 8], [2, 8, 19] and [1, 19, 6]",
        ),
    ]:
        assert refused(given) == f"{head}q, k and v are {shapes} {rule}"
    assert refused([q, k[:, :0], v[:0]]) == (
        f"{head}q is [5, 8], v is [0, 6] (docs/numerics.md N30: a sum of at least one term). "
        "Correct the graph."
    )
