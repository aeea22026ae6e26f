# SPDX-License-Identifier: Apache-2.0
"""Every op that changed between opset 7 and 17 gives the same numbers in opset 17."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.defs import OpSchema

from qcompile.errors import InputError
from qcompile.passes.normalise.convert_opset import CONVERTED, LATER, ConvertOpset
from qcompile.passes.normalise.opset_adapters import ADAPTERS
from qcompile.session import open_model, session_options
from tests.inputs.old_ops import CASES, changed_versions, newest_opset, text_of
from tests.inputs.rewritten_ops import MORE

# What ONNX Runtime cannot run in the old opset, and its reason.
NOT_RUN = {
    ("Scan", 8): "Scan of opset 8",
}


def old_model(text: str, opset: int) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 4, opset_import: ["": {opset}]> f {text}')


def feeds(model: ir.Model) -> Iterator[dict[str, NDArray]]:
    """Normal floats, integers 0 … 2, both truth values; a free dimension is 3."""
    for seed in range(3):
        rng, feed = np.random.default_rng(seed), {}
        for value in model.graph.inputs:
            dims = [d if isinstance(d, int) else 3 for d in value.shape]
            if value.dtype == ir.DataType.FLOAT:
                feed[value.name] = rng.standard_normal(dims).astype(np.float32)
            else:
                feed[value.name] = rng.integers(0, 3, dims).astype(value.dtype.numpy())
        yield feed


def outputs(model: ir.Model) -> list[list[NDArray]]:
    session = open_model(model, session_options(1, optimise=False))
    return [session.run(None, feed) for feed in feeds(model)]


def assert_equal(found: list[list[NDArray]], expected: list[list[NDArray]]) -> None:
    for left, right in zip(found, expected, strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def converted(model: ir.Model) -> ir.Model:
    """The model in opset 17, checked by ONNX."""
    ConvertOpset()(model)
    assert model.graph.opset_imports[""] == CONVERTED
    onnx.checker.check_model(ir.to_proto(model))
    return model


def assert_converts(text: str, opset: int) -> None:
    model = old_model(text, opset)
    expected = outputs(model)
    assert_equal(outputs(converted(model)), expected)


VERSIONS = [(op, version) for op, versions in changed_versions().items() for version in versions]


def test_every_changed_op_has_a_case() -> None:
    assert sorted(changed_versions()) == sorted(CASES)


@pytest.mark.parametrize(("op", "version"), sorted(set(VERSIONS) - set(NOT_RUN)))
def test_op(op: str, version: int) -> None:
    assert_converts(text_of(op, version), newest_opset(op, version))


@pytest.mark.parametrize("case", MORE)
def test_more(case: str) -> None:
    opset, text = MORE[case]
    assert_converts(text, opset)


def test_a_wrong_mode_is_seen() -> None:
    """The twin: Resize of opset 10 as half_pixel, which onnx's own converter makes of it."""
    opset, text = MORE["resize linear by 1.4, 2.7"]
    model = old_model(text, opset)
    expected, right = outputs(model), converted(model)
    (node,) = [n for n in right.graph if n.op_type == "Resize"]
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "half_pixel"
    )
    with pytest.raises(AssertionError):
        assert_equal(outputs(right), expected)


def required_attributes(schema: OpSchema) -> set[str]:
    return {name for name, attribute in schema.attributes.items() if attribute.required}


def test_an_op_without_adapter_only_gained() -> None:
    """No input or attribute is lost, no new one is required, defaults stay, output for output."""
    for op, version in VERSIONS:
        if op in ADAPTERS:
            continue
        old, new = onnx.defs.get_schema(op, version), onnx.defs.get_schema(op, CONVERTED)
        assert set(old.attributes) <= set(new.attributes), op
        assert required_attributes(new) <= required_attributes(old), op
        assert [i.name for i in old.inputs] == [i.name for i in new.inputs][: len(old.inputs)], op
        assert new.min_input <= old.min_input, op
        for name, attribute in old.attributes.items():
            default = new.attributes[name].default_value
            assert default.SerializeToString() == attribute.default_value.SerializeToString(), op


@pytest.mark.parametrize(
    ("opset", "text", "message"),
    [
        (8, text_of("Scan", 8), 'Scan "y" is Scan of opset 8, which has batches'),
        (
            8,
            """(float[2,2] x, float[2] a) => (float[2,2] y)
            { y = BatchNormalization <spatial = 0> (x, a, a, a, a) }""",
            'BatchNormalization "y" has spatial = 0',
        ),
        (
            9,
            """(float[2,2] x, float[2] a) => (float[2,2] y, float[2] m)
            { y, m, v, s, t = BatchNormalization (x, a, a, a, a) }""",
            'BatchNormalization "y" is in training mode',
        ),
        (
            10,
            "(float[2] x) => (float[2] y, bool[2] m) { y, m = Dropout (x) }",
            'Dropout "y": its mask is an output',
        ),
    ],
)
def test_refused(opset: int, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConvertOpset()(old_model(text, opset))


def test_weights_are_not_read() -> None:
    model = old_model("(float[2,3] x, float[3,4] w) => (float[2,4] y) { y = MatMul (x, w) }", 9)

    def fail() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    weight = model.graph.inputs.pop()
    weight.const_value = ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape([3000, 4]))
    model.graph.register_initializer(weight)
    ConvertOpset()(model)
    assert model.graph.opset_imports[""] == CONVERTED


FUNCTION = """<ir_version: 8, opset_import: ["": {model}, "local": 1]>
main (float[2,3] x) => (float[2,3] y) {{ y = local.Scaled (x) }}
<domain: "local", opset_import: ["": {function}]>
Scaled (x) => (y) {{ a = {body} (x)  y = Neg (a) }}"""


@pytest.mark.parametrize(
    ("opset", "other", "body"), [(9, 9, "Clip <min = 0.0>"), (17, 14, "Relu"), (9, 9, "Softmax")]
)
def test_functions(opset: int, other: int, body: str) -> None:
    model = ir.from_onnx_text(FUNCTION.format(model=opset, function=other, body=body))
    expected = outputs(model)
    (function,) = model.functions.values()
    assert ConvertOpset()(model).modified
    assert function.opset_imports[""] == CONVERTED
    assert_equal(outputs(model), expected)


def test_a_function_of_another_opset_with_an_op_that_differs() -> None:
    model = ir.from_onnx_text(FUNCTION.format(model=17, function=13, body="Relu"))
    with pytest.raises(InputError, match="function Scaled has opset 13 and the model 17, and Relu"):
        ConvertOpset()(model)


NEWER = """(float[1,4,4,4] x) => (float[1,16,2,2] y, float[3] r) {{
    y = SpaceToDepth <blocksize = 2, mode = "{mode}"> (x)
    start = Constant <value = float {{0}}> ()
    end = Constant <value = float {{3}}> ()
    step = Constant <value = float {{1}}> ()
    r = Range <stash_type = 1> (start, end, step) }}"""


@pytest.mark.parametrize(("mode", "opset"), [("DCR", 26), ("CRD", 28)])
def test_newer_opsets(mode: str, opset: int) -> None:
    model = old_model(NEWER.format(mode=mode), 28)
    assert ConvertOpset()(model).modified == (opset == 26)
    assert model.graph.opset_imports[""] == opset
    left = {name for node in model.graph for name in node.attributes}
    assert left == {"blocksize", "value"} | ({"mode", "stash_type"} if opset == 28 else set())


@pytest.mark.parametrize(("dtype", "opset"), [("uint8", 26), ("int16", 28)])
def test_newer_types(dtype: str, opset: int) -> None:
    text = f'({dtype}[2] x) => ({dtype}[2] y) {{ y = BitShift <direction = "LEFT"> (x, x) }}'
    model = old_model(text, 28)
    ConvertOpset()(model)
    assert model.graph.opset_imports[""] == opset


@pytest.mark.parametrize(("fmod", "opset"), [(1, 26), (0, 28)])
def test_newer_remainders(fmod: int, opset: int) -> None:
    model = old_model(f"(float[2] x) => (float[2] y) {{ y = Mod <fmod = {fmod}> (x, x) }}", 28)
    ConvertOpset()(model)
    assert model.graph.opset_imports[""] == opset


def test_newer_ops_only_gained() -> None:
    """What an attribute that opset 26 lacks means is in LATER."""
    newer = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.since_version > 26}
    gained = {}
    for name in newer:
        if not onnx.defs.has(name, 26, ""):
            continue
        before = set(onnx.defs.get_schema(name, 26).attributes)
        if more := set(onnx.defs.get_schema(name, 28).attributes) - before:
            gained[name] = more
    assert gained == {name: {attribute} for name, (attribute, _) in LATER.items()}
