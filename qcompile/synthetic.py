# SPDX-License-Identifier: Apache-2.0
"""Synthetic data: random inputs for a model whose user gave none."""

import numpy as np
import onnx_ir as ir

from qcompile.batch_norm_ranges import input_ranges
from qcompile.data import Batch, Data, Feed, dtype_of
from qcompile.element_types import is_float
from qcompile.errors import InputError, nearest
from qcompile.input_range import Range
from qcompile.recipe import Recipe

LENGTH = 16  # of free sizes besides the batch


def made_up(model: ir.Model, recipe: Recipe, length: int = LENGTH) -> Data:
    """Random inputs, within the ranges that the recipe gives."""
    ranges = input_ranges(model.graph, recipe)
    return synthetic_data(model, recipe.seed, length=length, ranges=ranges)


def synthetic_data(
    model: ir.Model,
    seed: int,
    samples: int = 2,
    length: int = LENGTH,
    shapes: dict[str, tuple[int, ...]] | None = None,
    ranges: dict[str, Range] | None = None,
) -> Data:
    """Random inputs where the user gave none: normal floats, integers within tables they index.

    A free leading dimension is `samples`, any other free one `length`, and those of a name that
    `shapes` gives are as it says; floats of a name in `ranges` are spread evenly over its range.
    Only agreement is measured on them, never accuracy.
    """
    shapes, ranges = shapes or {}, ranges or {}
    named = _named_sizes(list(model.graph.inputs), shapes)
    rng = np.random.default_rng(seed)
    feed: Feed = {}
    batch = Batch.of(list(model.graph.inputs))
    inner = batch_inside(model, batch)
    if inner:  # a state [layers, batch, …], which no one cuts along the second axis
        samples = 1
        named = dict.fromkeys(inner, 1) | named
    for value in model.graph.inputs:
        name, dtype = value.name or "", dtype_of(value)
        if (value.shape is None and name not in shapes) or dtype.kind == "O":
            what = "has no shape" if value.shape is None else "holds strings"
            raise InputError(
                f'input "{name}" {what}, so qcompile cannot make up data: give --calibration-data'
            )
        own = [] if value.shape is None else list(value.shape)
        free = [samples if i == 0 and name in batch.sizes else length for i in range(len(own))]
        dims = [
            d if isinstance(d, int) else named.get(str(d.value), free[i]) for i, d in enumerate(own)
        ]
        dims = list(shapes.get(name, dims))
        if not is_float(dtype):
            feed[name] = rng.integers(0, _index_limit(value), dims).astype(dtype)
        elif name in ranges:
            feed[name] = rng.uniform(*ranges[name], dims).astype(dtype)
        else:
            feed[name] = rng.standard_normal(dims).astype(dtype)
    return Data([feed], batch, is_synthetic=True)


def batch_inside(model: ir.Model, batch: Batch) -> set[str]:
    """The names of free leading sizes that are another axis of some input, too."""
    shapes = {v.name or "": list(v.shape or ()) for v in model.graph.inputs}
    leading = {str(dims[0]) for n, dims in shapes.items() if n in batch.sizes and dims}
    inner = {str(dim) for dims in shapes.values() for dim in dims[1:] if not isinstance(dim, int)}
    return (leading & inner) - {"None", "?"}


def _named_sizes(inputs: list[ir.Value], shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of every named dimension; InputError for shapes that the model does not take."""
    problems = [
        f"shape {name}: no such input: {nearest(name, [str(v.name) for v in inputs])}"
        for name in shapes
        if name not in {v.name for v in inputs}
    ]
    named: dict[str, int] = {}
    for value in inputs:
        given = shapes.get(value.name or "")
        if given is None or value.shape is None:
            continue
        own = list(value.shape)
        if len(own) != len(given) or any(
            isinstance(d, int) and d != g for d, g in zip(own, given, strict=True)
        ):
            problems.append(f"shape {value.name} {list(given)}: the model takes {value.shape}")
            continue
        for dim, size in zip(own, given, strict=True):
            name = None if isinstance(dim, int) else dim.value
            if name is not None and named.setdefault(name, size) != size:
                problems.append(f"dimension {name} is {named[name]} and {size} in the shapes")
    if problems:
        raise InputError("\n".join(problems))
    return named


def _index_limit(value: ir.Value) -> int:
    """Rows of the smallest table that the value indexes, else 2."""
    tables = [u.node.inputs[0] for u in value.uses() if u.node.op_type == "Gather" and u.idx == 1]
    sizes = [t.shape[0] for t in tables if t is not None and t.shape is not None and len(t.shape)]
    return min((s for s in sizes if isinstance(s, int)), default=2)
