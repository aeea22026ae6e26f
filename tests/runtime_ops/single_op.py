# SPDX-License-Identifier: Apache-2.0
"""Models of one com.qcompile node, and the weights that the tests put in them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from qcompile import runtime_ops
from qcompile.formats import Format
from qcompile.formats.scales import with_unit
from qcompile.graph import table_attributes
from qcompile.layouts import LAYOUTS
from qcompile.layouts.layout import Shape
from qcompile.layouts.scales import scale_bytes, scale_from_bytes
from qcompile.numerics.conv import Window
from qcompile.numerics.weight import CodedWeight


def build(
    op: str,
    inputs: list[NDArray | None],
    attributes: Mapping[str, Any],
    outputs: list[tuple[int, int]],
    fed: tuple[int, ...] = (0,),
    dims: Mapping[int, list[Any]] | None = None,
) -> onnx.ModelProto:
    """One node; inputs in `fed` are graph inputs (of shape dims[i]), the others constant."""
    names = ["" if x is None else f"input_{i}" for i, x in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    graph_inputs, initializers = [], []
    for i, x in enumerate(inputs):
        if x is None:
            continue
        if i in fed:
            shape = (dims or {}).get(i, list(x.shape))
            graph_inputs.append(
                helper.make_tensor_value_info(
                    names[i], helper.np_dtype_to_tensor_dtype(x.dtype), shape
                )
            )
        else:
            initializers.append(onnx.numpy_helper.from_array(x, names[i]))
    results = [f"output_{i}" for i in range(len(outputs))]
    node = helper.make_node(op, names, results, "node", domain="com.qcompile", **attributes)
    values = [
        helper.make_tensor_value_info(r, t, [f"{r}_{d}" for d in range(rank)])
        for r, (t, rank) in zip(results, outputs, strict=True)
    ]
    graph = helper.make_graph([node], "one_op", graph_inputs, values, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.qcompile", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A session with the op library."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    runtime_ops.register(options)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(
    op: str,
    inputs: list[NDArray | None],
    attributes: Mapping[str, Any],
    outputs: list[tuple[int, int]],
    fed: tuple[int, ...] = (0,),
    threads: int = 1,
) -> list[NDArray]:
    """The outputs of one node."""
    opened = session(build(op, inputs, attributes, outputs, fed), threads)
    return opened.run(None, {f"input_{i}": inputs[i] for i in fed if inputs[i] is not None})


def random_weight(
    rng: np.random.Generator,
    n: int,
    k: int,
    format: Format,
    block_size: int = 0,
    scale_format: str = "f32",
    *,
    with_zero_point: bool = False,
    extreme: bool = False,
    tensor_scale: float = 1.0,
) -> CodedWeight:
    """Any codes (the two ends alone where `extreme`), scales of many sizes, some negative.

    Of a codebook any levels, stored as scale_format says.
    """
    blocks = -(-k // (block_size or k))
    codes = rng.integers(format.code_min, format.code_max + 1, (n, k)).astype(np.int16)
    if extreme:
        codes = rng.choice(np.array([format.code_min, format.code_max], np.int16), (n, k))
    if format.has_codebook:
        levels = rng.standard_normal((n, blocks, format.num_codes)).astype(np.float32)
        levels = levels.astype(np.float16).astype(np.float32) if scale_format == "f16" else levels
        return CodedWeight(codes, None, None, format, block_size, scale_format, levels=levels)
    scale = None
    if scale_format != "none":
        scale = random_scales(rng, (n, blocks), scale_format) * np.float32(tensor_scale)
        is_plain = not block_size and not with_zero_point and not format.is_table
        if scale_format in SIGNED and is_plain:
            scale[1::3] *= -1  # as descent gives them (N3)
    points = None
    if with_zero_point:
        points = rng.integers(format.code_min, format.code_max + 1, (n, blocks)).astype(np.int16)
    if format.specials:
        points = rng.choice(np.array(format.specials, np.int16), (n, blocks))
    kind = format, block_size, with_unit(scale_format, tensor_scale)
    return CodedWeight(codes, scale, points, *kind)


SIGNED = ("f32", "f16", "bf16")


def random_scales(
    rng: np.random.Generator, shape: tuple[int, int], scale_format: str
) -> NDArray[np.float32]:
    """Numbers of a scale format: about 0.01 … 0.3; of a byte any of 40 that lie side by side."""
    if scale_bytes(scale_format) == 1:
        first = 110 if scale_format == "e8m0" else 0  # subnormal ones of ue4m3 among them
        found = scale_from_bytes(
            rng.integers(first, first + 40, shape).astype(np.uint8), scale_format
        )
        assert found is not None
        return np.where(found == 0, np.float32(1), found)
    scale = rng.uniform(0.01, 0.3, shape).astype(np.float32)
    if scale_format == "bf16":
        return (scale.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return scale.astype(np.float16).astype(np.float32) if scale_format == "f16" else scale


def sparse(rng: np.random.Generator, weight: CodedWeight) -> CodedWeight:
    """Two random codes of every four columns, the others those of 0."""
    n, k = weight.shape
    order = np.argsort(rng.random((n, -(-k // 4), 4)), axis=2).reshape(n, -1)[:, :k]
    kept = replace(weight, kept=order < 2)
    return replace(weight, codes=kept.masked(weight.codes))


def held(layout: str, format: Format) -> str:
    """The layout, or that of special values or codebooks in the place of n16k4."""
    if layout == "n16k4/1" and format.has_codebook:
        return "n16k4c/1"
    return "n16k4p/1" if layout == "n16k4/1" and format.specials else layout


def weight_attributes(weight: CodedWeight, layout: str = "n16k4/1") -> dict[str, Any]:
    """The node attributes of a weight (docs/ops.md)."""
    n, k = weight.shape
    shape = Shape.of(weight)
    attributes: dict[str, Any] = {
        "abi": 1,
        "layout": held(layout, weight.format),
        "format": weight.format.name,
        "bits": weight.format.bits,
        "is_signed": int(weight.format.is_signed and not weight.format.is_table),
        "N": n,
        "K": k,
        "block_size": weight.block_size,
        "scale_format": shape.scale_format,
        "has_zero_point": int(shape.has_zero_point),
    }
    if shape.tensor_scale != 1:
        attributes["tensor_scale"] = shape.tensor_scale
    if weight.format.has_codebook:
        attributes["has_codebook"] = 1
    if weight.format.specials:
        attributes |= {"has_special": 1, "special_code": weight.format.special_code}
        attributes["specials"] = list(weight.format.specials)
    if weight.format.levels is not None:
        attributes["levels"] = weight.format.levels
    if weight.format.table is not None:
        attributes |= table_attributes(weight.format.table)
    return attributes


def window_attributes(window: Window, group: int = 1) -> dict[str, Any]:
    """The node attributes of a window."""
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "pads": list(window.pads),
        "dilations": list(window.dilations),
        "group": group,
    }


def pack(weight: CodedWeight, layout: str = "n16k4/1", group: int = 1) -> NDArray[np.uint8]:
    """The weight's bytes; groups follow one another."""
    n = weight.shape[0] // group
    parts, chosen = [], LAYOUTS[held(layout, weight.format)]
    for g in range(group):
        parts.append(chosen.pack(weight.rows(slice(g * n, (g + 1) * n))))
    return np.concatenate(parts)
