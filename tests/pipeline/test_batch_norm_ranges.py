# SPDX-License-Identifier: Apache-2.0
"""Static activations without data: ranges from BatchNormalizations, and what refuses them."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import qcompile
from models import digits
from qcompile import batch_norm_ranges
from qcompile.batch_norm_ranges import NUM_DEVIATIONS, Interval
from qcompile.errors import InputError
from qcompile.normalise import normalise
from qcompile.recipe import Recipe, Rule
from tests.pipeline.batch_norm_nets import (
    NETS,
    dense,
    fitted,
    norm,
    residual,
    transposed,
    values_of,
    with_norms,
)
from tests.pipeline.nets import Net, cnn, mlp, samples

EACH = pytest.mark.parametrize("made", NETS, ids=lambda made: made.__name__)
WIDE = "-6:6"  # holds the normal inputs of `fitted`


def intervals_of(model: ir.Model) -> dict[str, Interval]:
    """Every interval that is known, by value."""
    walk = batch_norm_ranges._Walk({"x": (-6.0, 6.0)})
    for value in model.graph.inputs:
        walk.visit_input(value)
    for node in model.graph:
        walk.visit(node)
    return walk.by_name


def outside(value: NDArray, interval: Interval, slack: float) -> NDArray[np.bool_]:
    """The samples that have an element outside."""
    shape = (1, -1, *[1] * (value.ndim - 2))
    low, high = (
        end if len(end) == 1 else end.reshape(shape) for end in (interval.low, interval.high)
    )
    wrong = (value < low - slack) | (value > high + slack)
    return np.asarray(wrong.reshape(len(value), -1).any(axis=1))


@EACH
def test_values_are_inside_where_those_of_the_norms_are(made: Callable[[], Net]) -> None:
    """The rule of the module: nothing leaves its range before a BatchNormalization does."""
    proto, x = fitted(made())
    model = normalise(ir.from_proto(proto))
    known = intervals_of(model)
    names = [n for n in known if n != "x"]
    found = zip(names, values_of(ir.to_proto(model), {"x": x}, names), strict=True)
    values = {name: value for name, value in found if len(value) == len(x)}  # no weights
    # K · 2^-23 of the largest value, K < 512 in these nets: what f32 sums may differ by
    slack = 512 * 2.0**-23 * max(float(np.abs(v).max()) for v in values.values())
    from_norms = [v.name for n in model.graph for v in n.outputs if v.meta]
    is_left = np.zeros(len(x), bool)
    for name in from_norms:
        is_left |= outside(values[name], known[name], slack)
    assert is_left.mean() < 0.5
    for name, value in values.items():
        assert not (outside(value, known[name], slack) & ~is_left).any(), name
    assert len(names) > 1


@EACH
def test_few_elements_are_outside(made: Callable[[], Net]) -> None:
    """Chebyshev: of any distribution at most 1 / 36 is 6 deviations away or more."""
    proto, x = fitted(made())
    model = normalise(ir.from_proto(proto))
    known = intervals_of(model)
    for name in [v.name for n in model.graph for v in n.outputs if v.meta]:
        (value,) = values_of(ir.to_proto(model), {"x": x}, [name])
        shape = (1, -1, *[1] * (value.ndim - 2))
        far = (value < known[name].low.reshape(shape)) | (value > known[name].high.reshape(shape))
        axes = tuple(i for i in range(value.ndim) if i != 1)
        assert far.mean(axes).max() <= 1 / NUM_DEVIATIONS**2


@pytest.mark.parametrize(
    ("made", "target"),
    [*((made, "cpu") for made in NETS), (residual, "ort"), (dense, "ort")],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
def test_nets_compile(made: Callable[[], Net], target: str, tmp_path: Path) -> None:
    proto, x = fitted(made())
    onnx.save(proto, tmp_path / "m.onnx")
    recipe = Recipe(preset="w8a8", input_range=WIDE)
    artifact = qcompile.compile(tmp_path / "m.onnx", target, recipe=recipe)
    assert all(c["passed"] for c in artifact.measured["checks"])
    assert artifact.content["activation_ranges"] == "BatchNorm statistics"
    assert any("BatchNorm statistics" in note for note in artifact.content["notes"])
    assert artifact.measured["synthetic_data"]
    session = qcompile.load(tmp_path / "m.qc")
    expected = values_of(proto, {"x": x}, ["y"])[0]
    error = session.run(None, {"x": x})[0] - expected
    # Steps of the widest range, which lies 6 deviations to both sides, are 12 / 255 of a deviation;
    # what is left over 10 layers of them is far below the signal.
    assert np.square(error).mean() < 0.02 * np.square(expected).mean()


def test_digits_lose_nothing(tmp_path: Path) -> None:
    """A trained model of models/, without data; its own statistics are torch's running ones."""
    before = digits.accuracy(digits.open_session(digits.path()))
    for name, more in (("float", {}), ("integer", {"integer_only": True})):
        recipe = Recipe(preset="w8a8", input_range="0:1", **more)
        qcompile.compile(digits.path(), output=tmp_path / f"{name}.qc", recipe=recipe)
        after = digits.accuracy(qcompile.load(tmp_path / f"{name}.qc"))
        assert after >= before - 0.4  # 2 of 500 images


def test_real_activations_of_digits_are_inside() -> None:
    model = normalise(ir.load(digits.path()))
    walk = batch_norm_ranges._Walk({"image": (0.0, 1.0)})
    for value in model.graph.inputs:
        walk.visit_input(value)
    for node in model.graph:
        walk.visit(node)
    known = {n: i for n, i in walk.by_name.items() if n != "image"}
    images, _ = digits.data("test")
    values = values_of(ir.to_proto(model), {"image": images}, list(known))
    for (name, interval), value in zip(known.items(), values, strict=True):
        whole = interval.whole
        far = (value < whole.low[0] - 1e-5) | (value > whole.high[0] + 1e-5)
        assert far.mean() <= 1 / NUM_DEVIATIONS**2, name
    assert len(known) > 10


def test_narrow_ranges_cost_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: with half a deviation in place of six, digits are lost."""
    monkeypatch.setattr(batch_norm_ranges, "NUM_DEVIATIONS", 0.5)
    recipe = Recipe(preset="w8a8", input_range="0:1")
    qcompile.compile(digits.path(), output=tmp_path / "d.qc", recipe=recipe)
    assert digits.accuracy(qcompile.load(tmp_path / "d.qc")) < 95


def test_a_scale_a_channel(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.node("Relu", [norm(net, net.conv(x, 16, 3, "stem"), 16, "stem_norm")], "stem_relu")
    x = norm(net, net.conv(x, 16, 1, "depthwise", group=16), 16, "depthwise_norm", 1e-5)
    net.conv(x, 8, 16, "y", kernel=1)
    net.output("y", ["batch", 8, 8, 8])
    onnx.save(fitted(net)[0], tmp_path / "m.onnx")
    rule = Rule(match="/depthwise/.*", activation_granularity="axis")
    recipe = Recipe(preset="w8a8", input_range=WIDE, rules=(rule,))
    artifact = qcompile.compile(tmp_path / "m.onnx", recipe=recipe)
    row = next(r for r in artifact.content["nodes"] if r["node"] == "/depthwise/Conv")
    assert row["activation"].startswith("uint8/axis")
    assert all(c["passed"] for c in artifact.measured["checks"])


def test_a_convolution_at_the_end_needs_a_range_where_it_gives_codes(tmp_path: Path) -> None:
    """Target ort; on cpu the product gives floats."""
    onnx.save(fitted(transposed())[0], tmp_path / "m.onnx")
    with pytest.raises(InputError, match="y: Conv /y/Conv has no BatchNormalization behind it"):
        qcompile.compile(tmp_path / "m.onnx", "ort", recipe=Recipe(preset="w8a8", input_range=WIDE))


def test_data_and_dynamic_activations_say_so(tmp_path: Path) -> None:
    net = cnn()
    path = net.save(tmp_path / "m.onnx")
    with_data = qcompile.compile(path, output=tmp_path / "a.qc", calibration_data=samples(net))
    assert with_data.content["activation_ranges"] == "calibration data"
    dynamic = qcompile.compile(path, output=tmp_path / "b.qc")
    assert dynamic.content["activation_ranges"] is None


def test_every_tensor_without_a_range_is_named(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        qcompile.compile(path, recipe=Recipe(preset="w4a8"))
    assert str(caught.value).splitlines() == [
        "static activations need ranges, and without calibration data the model's "
        "BatchNormalizations give none for 3 tensors",
        "  first: MatMul /first_product/MatMul has no BatchNormalization behind it",
        "  middle: MatMul /middle_product/MatMul has no BatchNormalization behind it",
        "  x: an input of the model: give --input-range LOW:HIGH",
        "give --calibration-data, or use a preset of dynamic activations such as w8a8-dynamic",
    ]
    assert not list(tmp_path.glob("*.qc"))
    with pytest.raises(InputError, match="2 tensors"):
        qcompile.compile(path, recipe=Recipe(preset="w4a8", input_range="-4:4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "input range 1: LOW:HIGH is needed, or NAME=LOW:HIGH,… for several inputs"),
        ("2:1", "input range 2:1: 2 is not below 1"),
        ("0:nan", "input range 0:nan: 0 is not below nan"),
        ("x=0:1,x=0:2", "input range x=0:1,x=0:2: two ranges for x"),
        ("image=0:1", "input range image: no such input: known: x"),
    ],
)
def test_odd_input_ranges(text: str, message: str, tmp_path: Path) -> None:
    path = cnn().save(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        qcompile.compile(path, recipe=Recipe(preset="w8a8", input_range=text))
    assert str(caught.value) == message


def test_data_and_an_input_range_contradict_each_other(tmp_path: Path) -> None:
    net = cnn()
    with pytest.raises(InputError, match="leave out one of the two"):
        qcompile.compile(
            net.save(tmp_path / "m.onnx"),
            recipe=Recipe(preset="w8a8", input_range="0:1"),
            calibration_data=samples(net),
        )


def test_pixels_say_their_range_by_their_type() -> None:
    walk = batch_norm_ranges._Walk({})
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8))
    walk.visit_input(value)
    assert (walk.by_name["x"].low[0], walk.by_name["x"].high[0]) == (0, 255)


@pytest.mark.slow
@pytest.mark.skipif("QC_DATA" not in os.environ, reason="QC_DATA is not set")
def test_resnet20_with_its_norms_put_back(tmp_path: Path) -> None:
    """Statistics of 256 training images; accuracy and ranges on 1,000 others."""
    from benchmarks.peer_data import CASES, score

    folder = Path(os.environ["QC_DATA"])
    case = CASES["resnet20"]
    samples = case.read(folder, 1000)
    model = onnx.load(folder / case.file)
    path = tmp_path / "resnet20.onnx"
    onnx.save(with_norms(model, samples.calibration), path)
    # (0 − 0.485) / 0.229 … (1 − 0.406) / 0.225
    recipe = Recipe(preset="w8a8", input_range="-2.12:2.64")
    artifact = qcompile.compile(path, recipe=recipe)
    before, after = (
        score(session, samples, case.metric).mean()
        for session in (ort.InferenceSession(path), qcompile.load(artifact.folder))
    )
    assert after >= before - 1.0  # 10 of 1,000 images; measured: none on 10,000
    normalised = normalise(ir.load(path))
    walk = batch_norm_ranges._Walk({"input": (-2.12, 2.64)})
    for node in normalised.graph:
        walk.visit(node)
    names = [v.name or "" for n in normalised.graph for v in n.outputs if v.meta]
    found = values_of(ir.to_proto(normalised), {"input": samples.inputs[:250]}, names)
    for name, value in zip(names, found, strict=True):
        whole = walk.by_name[name].whole
        far = (value < whole.low[0]) | (value > whole.high[0])
        assert far.mean() <= 1 / NUM_DEVIATIONS**2, name
    assert len(names) == 19
