# SPDX-License-Identifier: Apache-2.0
"""Blocks with ONNX Runtime's fused attention: the products run from codes, the ops stay theirs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import qcompile
from tests.pipeline.nets import Net

WIDTH, HEADS, LENGTH, PAST = 64, 4, 6, 5
SIZE = WIDTH // HEADS  # of a head
Feed = dict[str, NDArray]


class Block(Net):
    """x float [batch, length, 64] → the op between projections → y float, with a residual sum."""

    def microsoft(
        self, op: str, inputs: list[str], outputs: list[str], **attributes: object
    ) -> str:
        """A com.microsoft node named after its first output."""
        node = helper.make_node(
            op, inputs, outputs, outputs[0], domain="com.microsoft", **attributes
        )
        self.nodes.append(node)
        return outputs[0]

    def rotary_caches(self) -> list[str]:
        """cos and sin of 16 positions, [16, 8]."""
        angles = np.arange(16)[:, None] / 100.0 ** (np.arange(SIZE // 2) / (SIZE // 2))
        found = {"cos": np.cos(angles), "sin": np.sin(angles)}
        return [self.array(name, value.astype(np.float32)) for name, value in found.items()]

    def projections(self, x: str, *widths: int) -> list[str]:
        """Query, key and value."""
        names = ("query", "key", "value")
        return [
            self.linear(x, WIDTH, width, name)
            for name, width in zip(names, widths or (WIDTH,) * 3, strict=True)
        ]

    def ended(self, x: str, attended: str) -> None:
        """Output projection, residual sum, a norm, two more products."""
        h = self.linear(attended, WIDTH, WIDTH, "out")
        gamma, beta = self.weight("gamma", WIDTH), self.weight("beta", WIDTH)
        h = self.node("Add", [x, h], "sum")
        h = self.node("LayerNormalization", [h, gamma, beta], "norm", axis=-1)
        h = self.node("Relu", [self.linear(h, WIDTH, 2 * WIDTH, "up")], "relu")
        self.output(self.linear(h, 2 * WIDTH, WIDTH, "y"), ["batch", "length", WIDTH])

    def proto(self, *, check: bool = True) -> onnx.ModelProto:
        model = super().proto(check=False)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return model


def floats(seed: int, *dims: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


def mask_of(length: int) -> NDArray[np.int32]:
    """Eight rows; the last places of every other one are padding."""
    mask = np.ones((8, length), np.int32)
    mask[::2, -2:] = 0
    return mask


def attention() -> tuple[Block, Feed]:
    net = Block()
    x = net.input("x", ["batch", "length", WIDTH])
    mask = net.input("mask", ["batch", "length"], TensorProto.INT32)
    weights = [net.weight("qkv", WIDTH, 3 * WIDTH), net.weight("qkv.bias", 3 * WIDTH)]
    net.ended(x, net.microsoft("Attention", [x, *weights, mask], ["attended"], num_heads=HEADS))
    return net, {"x": floats(1, 8, LENGTH, WIDTH), "mask": mask_of(LENGTH)}


def multi_head_attention() -> tuple[Block, Feed]:
    net = Block()
    x = net.input("x", ["batch", "length", WIDTH])
    mask = net.input("mask", ["batch", "length"], TensorProto.INT32)
    inputs = [*net.projections(x), "", mask]
    attended = net.microsoft("MultiHeadAttention", inputs, ["attended"], num_heads=HEADS)
    net.ended(x, attended)
    return net, {"x": floats(1, 8, LENGTH, WIDTH), "mask": mask_of(LENGTH)}


def rotary_embedding() -> tuple[Block, Feed]:
    net = Block()
    x = net.input("x", ["batch", "length", WIDTH])
    places = net.input("places", ["batch", "length"], TensorProto.INT64)
    query, key, value = net.projections(x)
    caches = net.rotary_caches()
    turned = [
        net.microsoft("RotaryEmbedding", [v, places, *caches], [f"{v}.turned"], num_heads=HEADS)
        for v in (query, key)
    ]
    inputs = [*turned, value]
    attended = net.microsoft("MultiHeadAttention", inputs, ["attended"], num_heads=HEADS)
    net.ended(x, attended)
    rows = np.tile(np.arange(LENGTH), (8, 1)) + np.arange(8)[:, None]
    return net, {"x": floats(1, 8, LENGTH, WIDTH), "places": rows}


def group_query_attention() -> tuple[Block, Feed]:
    """One new token behind 5 in the cache, two query heads for each key; lengths from the mask."""
    net = Block()
    x = net.input("x", ["batch", "length", WIDTH])
    mask = net.input("mask", ["batch", "total"], TensorProto.INT64)
    heads = HEADS // 2
    past = [net.input(f"past_{name}", ["batch", heads, "past", SIZE]) for name in ("key", "value")]
    one, axis = net.array("one", np.array(1)), net.array("axis", np.array([1]))
    seen = net.node("ReduceSum", [mask, axis], "seen", keepdims=0)
    seen = net.node("Cast", [net.node("Sub", [seen, one], "last")], "seqlens", to=6)
    total = net.node("Gather", [net.node("Shape", [mask], "shape"), one], "size")
    total = net.node("Cast", [total], "total", to=6)
    rows = net.projections(x, WIDTH, heads * SIZE, heads * SIZE)
    names = ["attended", "present_key", "present_value"]
    attributes = {"num_heads": HEADS, "kv_num_heads": heads, "do_rotary": 1}
    inputs = [*rows, *past, seen, total, *net.rotary_caches()]
    net.ended(x, net.microsoft("GroupQueryAttention", inputs, names, **attributes))
    for name in names[1:]:
        net.output(name, ["batch", heads, "total", SIZE])
    feed = {"x": floats(1, 8, 1, WIDTH), "mask": np.ones((8, PAST + 1), np.int64)}
    return net, feed | {v: floats(i, 8, heads, PAST, SIZE) for i, v in enumerate(past)}


BLOCKS: dict[str, Callable[[], tuple[Block, Feed]]] = {
    "Attention": attention,
    "MultiHeadAttention": multi_head_attention,
    "RotaryEmbedding": rotary_embedding,
    "GroupQueryAttention": group_query_attention,
}


@pytest.mark.parametrize("target", ["cpu", "ort"])
@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic", "w4a16"])
@pytest.mark.parametrize("op", BLOCKS)
def test_products_run_from_codes(op: str, preset: str, target: str, tmp_path: Path) -> None:
    net, feed = BLOCKS[op]()
    path = net.save(tmp_path / "m.onnx")
    made = qcompile.compile(
        path, target, recipe=qcompile.Recipe(preset=preset), calibration_data=feed
    )
    assert made.content["coverage"] == 1
    assert {row["reason"] for row in made.content["nodes"]} == {None}
    assert made.measured["sqnr_db"] > (12 if preset == "w4a16" else 25)
    before, after = net.proto(), onnx.load(made.folder / "model.onnx")
    kept = [n.op_type for n in after.graph.node if n.domain == "com.microsoft"]
    assert ("MultiHeadAttention" if op == "Attention" else op) in kept
    types = {v.name: v.type for v in (*before.graph.input, *before.graph.output)}
    found = {v.name: v.type for v in (*after.graph.input, *after.graph.output)}
    assert {k: v.tensor_type.elem_type for k, v in types.items()} == {
        k: v.tensor_type.elem_type for k, v in found.items()
    }
    stored = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    for name in {"cos", "sin"} & set(net.weights):
        np.testing.assert_array_equal(stored[name], net.weights[name])
    coded = {n.input[0] for n in after.graph.node if "Quantize" in n.op_type}
    assert not coded & {"mask", "places", "past_key", "past_value", "cos", "sin"}
