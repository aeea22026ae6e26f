# SPDX-License-Identifier: Apache-2.0
"""Small graphs as ONNX text, compared as text, and run on integers, where floats are exact."""

import difflib
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.rewrite import NodePass
from qcompile.session import open_model, session_options
from qcompile.shape_inference import infer_shapes

HEADER = '<ir_version: 9, opset_import: ["": 17, "com.qcompile": 1, "com.microsoft": 1]>\n'
SEEDS = (0, 1, 2)


def parse(text: str) -> ir.Model:
    """The model of a graph in ONNX text, with inferred shapes; a text may have its own header."""
    own = text.lstrip().startswith("<")
    model = ir.from_onnx_text(text if own else HEADER + text)
    infer_shapes(model)
    return model


def lines_of(model: ir.Model) -> list[str]:
    """What makes two graphs the same: interface, constants, nodes in order with attributes."""
    return _lines(model.graph)


def _lines(graph: ir.Graph) -> list[str]:
    lines = [f"input {v.name} {v.type} {v.shape}" for v in graph.inputs]
    lines += [f"output {v.name} {v.type} {v.shape}" for v in graph.outputs]
    for name, value in sorted(graph.initializers.items()):
        array = value.const_value.numpy()
        lines.append(f"constant {name} {array.dtype}{list(array.shape)} {array.ravel().tolist()}")
    for node in graph:
        attributes = {k: node.attributes[k].value for k in sorted(node.attributes)}
        shown = {k: _plain(v) for k, v in attributes.items()}
        inputs = ", ".join("" if v is None else str(v.name) for v in node.inputs)
        outputs = ", ".join(str(v.name) for v in node.outputs)
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        lines.append(f"{outputs} = {domain}{node.op_type} {shown} ({inputs})")
    return lines


def _plain(value: Any) -> Any:
    """Tensors of different classes may be equal."""
    if isinstance(value, ir.TensorProtocol):
        return value.dtype, value.numpy().tolist()
    if isinstance(value, ir.Graph):
        return _lines(value)
    return list(value) if isinstance(value, tuple) else value


def assert_same(found: ir.Model, expected: ir.Model) -> None:
    """Structural equality; a difference shows both graphs."""
    left, right = lines_of(found), lines_of(expected)
    difference = "\n".join(difflib.ndiff(right, left))
    assert left == right, f"expected (−) and found (+):\n{difference}"


def assert_rewritten(
    each: ir.passes.InPlacePass, before: str, after: str, *, is_runnable: bool = True
) -> ir.Model:
    """The pass turns one text into the other, and the outputs stay equal on three seeds.

    What the pass leaves without a reader is removed first, as later in every stage.
    """
    model = parse(before)
    assert each(model).modified
    RemoveUnused()(model)
    assert_same(model, parse(after))
    if is_runnable:
        assert_equal_outputs(parse(before), model)
    return model


def assert_left_alone(each: ir.passes.InPlacePass, text: str, reason: str | None = None) -> None:
    """The pass changes nothing; `reason` is what it says, None where the node is no candidate."""
    model = parse(text)
    assert not each(model).modified
    assert_same(model, parse(text))
    if isinstance(each, NodePass):
        assert [r.reason for r in each.refusals] == ([] if reason is None else [reason])


def feeds(model: ir.Model, seed: int, sizes: dict[str, int] | None = None) -> dict[str, NDArray]:
    """Integers −4 … 4 (0 … 8 where unsigned) for every input; named dimensions by `sizes`."""
    rng = np.random.default_rng(seed)
    found = {}
    for value in model.graph.inputs:
        dims = [d if isinstance(d, int) else (sizes or {}).get(str(d), 3) for d in value.shape]
        dtype = value.dtype.numpy()
        low = 0 if np.issubdtype(dtype, np.unsignedinteger) else -4
        found[value.name] = rng.integers(low, low + 9, dims).astype(dtype)
    return found


def run(model: ir.Model, feed: dict[str, NDArray]) -> list[Any]:
    """Its outputs from ONNX Runtime, nothing optimised."""
    names = {v.name for v in model.graph.inputs}
    session = open_model(model, session_options(1, optimise=False))
    return session.run(None, {k: v for k, v in feed.items() if k in names})


def assert_equal_outputs(before: ir.Model, after: ir.Model) -> None:
    """Bit for bit on three seeds: with small integers and powers of two no float op rounds."""
    for seed in SEEDS:
        feed = feeds(before, seed)
        for left, right in zip(run(before, feed), run(after, feed), strict=True):
            assert np.array_equal(left, right)
