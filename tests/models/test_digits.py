# SPDX-License-Identifier: Apache-2.0
"""models/digits.onnx is the file that models/README.md describes."""

from collections import Counter

import numpy as np
import onnx
import pytest

from models import digits
from models.files import FOLDER, checked, open_session, sha256


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(digits.path())


def test_sha256_matches_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name in ("digits.onnx", "digits_data.npz"):
        size = (FOLDER / name).stat().st_size
        assert f"| `{name}` | {size:,} | `{sha256(FOLDER / name)}` |" in readme
        assert size <= 2_000_000


def test_changed_data_is_refused() -> None:
    with pytest.raises(ValueError, match="sha256"):
        checked("digits_data.npz", "0" * 64)


def test_splits() -> None:
    shapes = {"train": 1297, "test": 500, "calibration": 256}
    for split, count in shapes.items():
        images, labels = digits.data(split)
        assert images.shape == (count, 1, 8, 8) and images.dtype == np.float32
        assert labels.shape == (count,) and labels.dtype == np.int64
        assert images.min() == 0 and images.max() == 1
        assert set(labels.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="split"):
        digits.data("validation")


def test_accuracy_matches_readme() -> None:
    accuracy = digits.accuracy(open_session(digits.path()))
    assert accuracy == pytest.approx(99.4, abs=1e-6)
    assert f"test accuracy **{accuracy:.2f} %**" in (FOLDER / "README.md").read_text()


def test_batch_size_is_free() -> None:
    images, _ = digits.data("test")
    session = open_session(digits.path())
    (whole,) = session.run(["logits"], {"image": images[:5]})
    (single,) = session.run(["logits"], {"image": images[4:5]})
    assert whole.shape == (5, 10)
    np.testing.assert_allclose(single, whole[4:], rtol=1e-4, atol=1e-5)


def test_versions_and_interface(model: onnx.ModelProto) -> None:
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 1, 8, 8]


def test_structure(model: onnx.ModelProto) -> None:
    graph = model.graph
    assert Counter(node.op_type for node in graph.node) == {
        "Conv": 7,
        "BatchNormalization": 7,
        "Relu": 6,
        "Add": 2,
        "Constant": 2,
        "Clip": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    users = {name: node for node in graph.node for name in node.input}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    depthwise = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        assert len(node.input) == 2  # no bias
        assert users[node.output[0]].op_type == "BatchNormalization"
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if attributes["group"] > 1:
            depthwise.append((attributes["group"], shapes[node.input[1]], attributes["strides"]))
    assert depthwise == [(24, (24, 1, 3, 3), [2, 2])]


def test_residual_adds(model: onnx.ModelProto) -> None:
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type == "Add":
            assert sorted(makers[name] for name in node.input) == ["BatchNormalization", "Relu"]
            (skip,) = (name for name in node.input if makers[name] == "Relu")
            assert readers[skip] == 2  # the block and the skip connection
