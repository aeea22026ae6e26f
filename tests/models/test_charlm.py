# SPDX-License-Identifier: Apache-2.0
"""models/charlm.onnx is the file that models/README.md describes."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import charlm
from models.files import FOLDER, checked, open_session, sha256


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(charlm.path())


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_sha256_matches_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name in ("charlm.onnx", "stdlib_slice.txt"):
        size = (FOLDER / name).stat().st_size
        assert f"| `{name}` | {size:,} | `{sha256(FOLDER / name)}` |" in readme
        assert size <= 2_000_000


def test_changed_text_is_refused() -> None:
    with pytest.raises(ValueError, match="sha256"):
        checked("stdlib_slice.txt", "0" * 64)


def test_vocabulary() -> None:
    assert len(charlm.text()) == 100_000
    assert len(charlm.vocabulary()) == 96
    source = b"def f(x):\n    return x\n"
    assert charlm.decode(charlm.encode(source)) == source
    with pytest.raises(ValueError, match="vocabulary"):
        charlm.encode(b"\x00")


def test_splits() -> None:
    counts = {"train": 669, "validation": 39, "test": 78, "calibration": 64}
    windows = {split: charlm.data(split) for split in counts}
    for split, count in counts.items():
        assert windows[split].shape == (count, 128) and windows[split].dtype == np.int64
    np.testing.assert_array_equal(windows["test"][1:, 0], windows["test"][:-1, -1])
    assert charlm.decode(windows["test"][0]) == charlm.text()[90_000:90_128]
    train = {window.tobytes() for window in windows["train"]}
    assert all(window.tobytes() in train for window in windows["calibration"])
    with pytest.raises(ValueError, match="split"):
        charlm.data("other")


def test_mean_loss_of_equal_logits() -> None:
    tokens = charlm.data("validation")
    logits = np.zeros((*tokens.shape, 96), np.float32)
    assert charlm.mean_loss(logits, tokens) == pytest.approx(np.log(96))


def test_loss_matches_readme() -> None:
    loss = charlm.loss(open_session(charlm.path()))
    assert loss == pytest.approx(1.7743, abs=1e-4)
    assert "held-out loss **1.7743 nats per character**" in (FOLDER / "README.md").read_text()


def test_batch_and_length_are_free_and_attention_is_causal() -> None:
    tokens = charlm.data("test")[:3]
    session = open_session(charlm.path())
    (whole,) = session.run(["logits"], {"tokens": tokens})
    assert whole.shape == (3, 128, 96)
    for length in (1, 17, 127):
        (part,) = session.run(["logits"], {"tokens": np.ascontiguousarray(tokens[1:2, :length])})
        np.testing.assert_allclose(part, whole[1:2, :length], rtol=1e-3, atol=1e-3)


def test_versions_and_interface(model: onnx.ModelProto) -> None:
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert [value.name for value in model.graph.input] == ["tokens"]
    assert [value.name for value in model.graph.output] == ["logits"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims] == ["B", "T"]


def test_structure(model: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in model.graph.node)
    expected = {"LayerNormalization": 5, "MatMul": 13, "Softmax": 2, "Erf": 2, "Split": 2}
    assert {op: counts[op] for op in expected} == expected
    mask = initializers(model)["mask"]
    assert mask.shape == (1, 1, 128, 128)
    np.testing.assert_array_equal(mask[0, 0] < 0, np.triu(np.ones((128, 128), bool), 1))


def test_head_is_the_transposed_embedding(model: onnx.ModelProto) -> None:
    stored = initializers(model)
    (gather,) = (n for n in model.graph.node if n.op_type == "Gather" and n.input[1] == "tokens")
    (head,) = (n for n in model.graph.node if "logits" in n.output)
    assert head.op_type == "MatMul"
    table, transposed = stored[gather.input[0]], stored[head.input[1]]
    assert table.shape == (96, 128) and transposed.shape == (128, 96)
    np.testing.assert_array_equal(table.T, transposed)
