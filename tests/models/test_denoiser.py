# SPDX-License-Identifier: Apache-2.0
"""models/denoiser.onnx is the file that models/README.md describes."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import qcompile
from models import denoiser
from models.files import FOLDER, Session, open_session, sha256
from qcompile.recipe import Recipe


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


def distance(session: Session, expected: Session) -> float:
    """Mean square between images of both, drawn with equal noise (Ho et al. 2020, algorithm 2)."""
    shares, rng = denoiser.signal_shares(), np.random.default_rng(0)
    alphas = shares / np.concatenate([[1.0], shares[:-1]])
    found = [rng.standard_normal((64, 1, 8, 8), np.float32)] * 2
    for t in range(denoiser.STEPS - 1, -1, -1):
        fresh = rng.standard_normal(found[0].shape) * (t > 0)
        steps = np.full(len(fresh), t, np.int64)
        for i, each in enumerate((session, expected)):
            (noise,) = each.run(["noise"], {"x": found[i], "t": steps})
            mean = found[i] - (1 - alphas[t]) / np.sqrt(1 - shares[t]) * noise
            drawn = mean / np.sqrt(alphas[t]) + np.sqrt(1 - alphas[t]) * fresh
            found[i] = drawn.astype(np.float32)
    return float(np.mean((found[0] - found[1]) ** 2))


@pytest.mark.slow
def test_floats_of_four_bits_with_learned_rounding(tmp_path: Path) -> None:
    """The order of floats for diffusion models: rounded by outputs, nearest, integers."""
    feeds, expected, lost = denoiser.calibration(4), open_session(denoiser.path()), []
    for name, rounding in (("fp4", "descent"), ("fp4", "nearest"), ("int4", "nearest")):
        recipe = Recipe(
            "w4a8", weight_format=name, weight_rounding=rounding, effort="quick", edge_bits=4
        )
        folder = tmp_path / f"{name}_{rounding}.qc"
        qcompile.compile(denoiser.path(), output=folder, recipe=recipe, calibration_data=feeds)
        lost.append(distance(qcompile.load(folder), expected))
    assert lost == sorted(lost) and lost[0] < 0.5 * lost[1]
