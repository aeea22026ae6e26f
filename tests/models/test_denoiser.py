# SPDX-License-Identifier: Apache-2.0
"""models/denoiser.onnx is the file that models/README.md describes."""

from collections import Counter

import numpy as np
import onnx
import pytest

from models import denoiser
from models.files import FOLDER, open_session, sha256


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(denoiser.path())


def test_sha256_matches_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    size = denoiser.path().stat().st_size
    assert f"| `denoiser.onnx` | {size:,} | `{sha256(denoiser.path())}` |" in readme
    assert size <= 100_000


def test_error_matches_readme() -> None:
    error = denoiser.errors(open_session(denoiser.path())).mean()
    line = next(
        line for line in (FOLDER / "README.md").read_text().splitlines() if "`denoiser" in line
    )
    assert f"test error **{error:.4f}**" in line


def test_schedule_and_data() -> None:
    """From nearly the image to nearly noise; every step has its feed, the same for one seed."""
    shares = denoiser.signal_shares()
    assert shares.shape == (denoiser.STEPS,) and (np.diff(shares) < 0).all()
    assert shares[0] > 0.99 and shares[-1] < 1e-3
    feeds = denoiser.data("test", 3)
    assert [feed["t"].tolist() for feed in feeds] == [[t] * 3 for t in range(denoiser.STEPS)]
    assert all(feed["x"].dtype == np.float32 for feed in feeds)
    again = denoiser.data("test", 3)
    np.testing.assert_array_equal(feeds[7]["x"], again[7]["x"])
    for feed in (feeds[0], feeds[-1]):
        share = shares[feed["t"][0]]
        image = (feed["x"] - np.sqrt(1 - share) * feed["noise"]) / np.sqrt(share)
        assert np.abs(image).max() < 1 + 1e-3


def test_batch_size_is_free() -> None:
    session = open_session(denoiser.path())
    feed = denoiser.calibration(5)[40]
    (whole,) = session.run(["noise"], feed)
    (single,) = session.run(["noise"], {name: array[3:4] for name, array in feed.items()})
    np.testing.assert_allclose(single, whole[3:4], rtol=1e-4, atol=1e-5)


def test_versions_and_structure(model: onnx.ModelProto) -> None:
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert [value.name for value in model.graph.input] == ["x", "t"]
    assert [value.name for value in model.graph.output] == ["noise"]
    types = [value.type.tensor_type.elem_type for value in model.graph.input]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64]
    ops = Counter(node.op_type for node in model.graph.node)
    assert (ops["Conv"], ops["Gemm"], ops["Add"], ops["Gather"]) == (8, 3, 4, 1)
