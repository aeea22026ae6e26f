# SPDX-License-Identifier: Apache-2.0
"""Small nets through the stages, and an evaluator that compares a lowered graph with its QDQ graph.

QDQ graphs run in float64: what a lowered static node writes must be the nearest code of the real
number there, and a float output must keep the bound of docs/numerics.md.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qcompile import targets
from qcompile.annotate import annotate
from qcompile.calibrate import calibrate
from qcompile.data import Batch, Data
from qcompile.graph import DOMAIN, attribute, constant
from qcompile.normalise import normalise
from qcompile.numerics.quantize import quantize_dynamic
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Preset, Recipe
from qcompile.reference import activation_inputs, run_node, stepped_inputs
from qcompile.timesteps import by_timestep
from qcompile.transform import transform
from qcompile.verify_lowered import largest_input, sum_bound
from tests.passes.graphs import HEADER

Feed = dict[str, NDArray]


@dataclass(frozen=True)
class Staged:
    """A net after transform; `work` is what transform got, `feed` one batch of its data."""

    normalised: ir.Model
    quantized: ir.Model
    plan: Plan
    work: Work
    feed: Feed


def with_weights(text: str, seed: int = 0, **shapes: tuple[int, ...]) -> ir.Model:
    """The graph, with normal float32 constants of these shapes in place of the inputs so named."""
    model, rng = ir.from_onnx_text(HEADER + text), np.random.default_rng(seed)
    for name, shape in shapes.items():
        value = next(v for v in model.graph.inputs if v.name == name)
        scale = 1 / np.sqrt(max(np.prod(shape[1:]), 1))
        array = (rng.standard_normal(shape) * scale).astype(np.float32)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(value)
    return model


def random_feed(model: ir.Model, seed: int = 7, batch: int = 4) -> Feed:
    """Normal floats, or indices 0 … 4; a free dimension is `batch`."""
    rng, feed = np.random.default_rng(seed), {}
    for value in model.graph.inputs:
        dims = [d if isinstance(d, int) else batch for d in value.shape]
        if value.dtype == ir.DataType.FLOAT:
            feed[value.name] = rng.standard_normal(dims).astype(np.float32)
        else:
            feed[value.name] = rng.integers(0, 5, dims).astype(value.dtype.numpy())
    return feed


def staged(
    model: ir.Model,
    preset: str | None = "w8a8",
    target: str = "cpu",
    *,
    gives_floats: bool = False,
    widens: bool = False,
    **recipe: object,
) -> Staged:
    """normalise … transform on random data; nets of one op get codes on both sides of it.

    widens: whether narrow codes that save nothing have 8 bits, as users get them.
    """
    chosen = Recipe(preset=preset, **recipe)  # type: ignore[arg-type]
    asked = Preset.parse(preset) if preset is not None else None
    if asked is not None and asked.activation == "static" and not widens:
        chosen = replace(chosen, activation_format=f"uint{asked.activation_bits}")
    normalised = normalise(model)
    feed = random_feed(normalised, batch=4 if chosen.timestep_input is None else 64)
    chosen_target = replace(targets.get(target), gives_floats=gives_floats)
    data = Data([feed], Batch.of(list(normalised.graph.inputs)))
    if chosen.timestep_input is not None:
        data = by_timestep(data, list(normalised.graph.inputs), chosen.timestep_input)
        feed = data.feeds[0]
    plan = annotate(normalised, chosen, chosen_target, has_data=True)
    is_float = preset is None or "dynamic" in preset or preset.endswith("a16")
    stats = Stats() if is_float else calibrate(normalised, plan, chosen, data)
    work = Work(plan, stats, chosen)
    return Staged(normalised, transform(normalised, plan, stats, chosen), plan, work, feed)


def run_passes(model: ir.Model, *passes: ir.passes.InPlacePass) -> ir.Model:
    """A copy after the passes."""
    copy = model.clone()
    for each in passes:
        each(copy)
    return copy


def ops(model: ir.Model) -> list[str]:
    """Op types in order."""
    return [n.op_type for n in model.graph]


def find(model: ir.Model, op_type: str) -> ir.Node:
    """The one node of the type."""
    (node,) = [n for n in model.graph if n.op_type == op_type]
    return node


@dataclass
class Values:
    """What a run gave: arrays and, for floats of lowered products, bounds by value name."""

    arrays: Feed
    bounds: Feed = field(default_factory=dict)
    num_compared: int = 0


def run_lowered(model: ir.Model, feed: Feed) -> Values:
    """com.qcompile nodes by numerics, the others by onnx.reference, floats in float64."""
    found = Values(dict(feed))
    for node in model.graph:
        inputs = [_value(v, found.arrays) for v in node.inputs]
        if node.domain == DOMAIN:
            given = [found.arrays[v.name] for v in activation_inputs(node)]
            is_float = node.op_type != "QGather" and given[0].dtype == np.float64
            given = [g.astype(np.float32) for g in given] if is_float else given
            rows = [found.arrays[v.name] for v in stepped_inputs(node)]
            rows = [r.astype(np.float32) if r.dtype == np.float64 else r for r in rows]
            value, bound = run_node(node, [*given, *rows])
            found.arrays[node.outputs[0].name] = value
            if attribute(node, "output") == "f32":  # N16 rounds what the QDQ graph does not
                each = sum_bound(node, found.arrays)(largest_input(node, given[0])).reshape(-1)
                bound = np.broadcast_to(each, value.shape)
            if bound is not None:
                found.bounds[node.outputs[0].name] = bound
            continue
        outputs = _standard(node, inputs)
        for out, array in zip(node.outputs, outputs, strict=True):
            found.arrays[out.name] = array
        source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else ""
        if node.op_type == "Transpose" and source in found.bounds:
            perm = attribute(node, "perm")
            found.bounds[node.outputs[0].name] = found.bounds[source].transpose(perm)
    return found


def _value(value: ir.Value | None, arrays: Feed) -> NDArray | None:
    if value is None:
        return None
    return arrays[value.name] if value.name in arrays else constant(value)


def _standard(node: ir.Node, inputs: list[NDArray | None]) -> list[NDArray]:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return [_linear(node, inputs)]
    proto = ir.to_proto(node)
    wide = [i.astype(np.float64) if i is not None and i.dtype == np.float32 else i for i in inputs]
    named = {n: i for n, i in zip(proto.input, wide, strict=True) if n}
    assert isinstance(proto, onnx.NodeProto)
    return list(ReferenceEvaluator(proto).run(None, named))


def _linear(node: ir.Node, inputs: list[NDArray | None]) -> NDArray:
    array, scale, point = (*inputs, None)[:3]
    axis = attribute(node, "axis", 1)
    if np.size(scale) > 1:
        dims = [-1 if i == axis % array.ndim else 1 for i in range(array.ndim)]
        scale = scale.reshape(dims)
        point = None if point is None else point.reshape(dims)
    point = 0 if point is None else point.astype(np.int64)
    if node.op_type == "DequantizeLinear":
        return (array.astype(np.int64) - point) * np.float64(scale)
    ratio = np.rint(array.astype(np.float32) / np.float32(scale)).astype(np.float64)
    return np.clip(ratio + point, 0, 255).astype(np.uint8)


def _custom(node: ir.Node, inputs: list[NDArray]) -> list[NDArray]:
    """com.qcompile Quantize and Dequantize of a QDQ graph."""
    granularity = attribute(node, "granularity")
    if node.op_type == "Quantize":
        axes = (inputs[0].ndim - 1,) if granularity == "row" else (1, 2, 3)
        bits, reach = attribute(node, "bits"), attribute(node, "reach")
        return list(quantize_dynamic(inputs[0].astype(np.float32), axes, bits, reach))
    codes, scale, point = (*inputs, None)[:3]
    table = attribute(node, "table")
    if table:
        codes = np.array(table)[codes]
    if not attribute(node, "is_signed") and not table:
        codes = codes.astype(np.int64) & 0xFF
        point = None if point is None else point.astype(np.int64) & 0xFF
    scale = scale.astype(np.float64)
    if granularity == "block":
        size = attribute(node, "block_size")
        wide = [np.repeat(p, size, 1)[:, : codes.shape[1]] for p in (scale, point) if p is not None]
        scale, point = (*wide, None)[:2]
    if granularity == "axis":
        scale = scale.reshape(-1, *[1] * (codes.ndim - 1))
    return [(codes.astype(np.float64) - (0 if point is None else point)) * scale]


def compare(
    quantized: ir.Model, lowered: ir.Model, feed: Feed, shift: int = 0
) -> tuple[int, list[str]]:
    """Number of compared values, and the names of those that differ.

    The QDQ graph reads the codes that the lowered one wrote, so that every op is judged on its own
    inputs. `shift` is added to the lowered codes, for the twin that must fail.
    """
    low = run_lowered(lowered, feed)
    arrays, ratios, wrong, count = dict(feed), {}, [], 0
    for node in quantized.graph:
        inputs = [_value(v, arrays) for v in node.inputs]
        name = node.outputs[0].name
        if node.domain == DOMAIN:
            for out, array in zip(node.outputs, _custom(node, inputs), strict=True):
                arrays[out.name] = array
            continue
        is_clip = node.op_type == "Clip" and node.inputs[0].name in ratios
        for out, array in zip(node.outputs, _standard(node, inputs), strict=True):
            arrays[out.name] = array
        if not is_clip and node.op_type != "QuantizeLinear":
            continue
        if node.op_type == "QuantizeLinear":
            ratio = np.float64(inputs[0]) / float(inputs[1]) + int(inputs[2])
            ratios[name] = np.clip(ratio, 0, 255)
        else:
            ratios[name] = np.clip(ratios[node.inputs[0].name], inputs[1], inputs[2])
        written = _codes(low.arrays, name)
        if written is not None:
            count += 1
            written = np.clip(written.astype(np.int64) + shift, 0, 255)
            # Nearest, but for the roundings of N11, N20, N21: four of half a unit of f32.
            limit = 0.5 + 4 * 2.0**-24 * (256 + np.abs(ratios[name]))
            wrong += [name] * bool((np.abs(written - ratios[name]) > limit).any())
            arrays[name] = written.astype(np.uint8)
    for out in quantized.graph.outputs:
        found, expected = low.arrays[out.name], arrays[out.name]
        bound = low.bounds.get(out.name)
        if bound is not None:
            count += 1
            # A sum of exact 0 has bound 0, but the QDQ graph's float64 terms leave 2^-53 of each.
            bound = bound + bound.max() * 2.0**-20
            wrong += [out.name] * bool((np.abs(found + shift * bound - expected) > bound).any())
    return count, wrong


def _codes(arrays: Feed, name: str) -> NDArray | None:
    """The lowered codes of the name, in NCHW."""
    if name in arrays:
        return arrays[name]
    found = arrays.get(f"{name}_nhwc")
    return None if found is None else found.transpose(0, 3, 1, 2)


def assert_lowered(
    quantized: ir.Model, lowered: ir.Model, feed: Feed, *, at_least: int = 1
) -> None:
    """Everything agrees, and codes that are one off (floats: two bounds) do not."""
    count, wrong = compare(quantized, lowered, feed)
    assert wrong == []
    assert count >= at_least
    assert compare(quantized, lowered, feed, shift=2)[1] != []
