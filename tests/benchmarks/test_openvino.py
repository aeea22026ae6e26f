# SPDX-License-Identifier: Apache-2.0
"""The peer OpenVINO really multiplies: its products against NumPy's of the same weights."""

import gc

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from benchmarks.kernel_openvino import openvino_peers
from benchmarks.kernel_rows import Row
from benchmarks.saturation import CHANNELS, EXACT, SIDE, extreme_model, openvino_share
from qcompile import runtime_ops

pytest.importorskip("openvino")
M, K, N = 3, 256, 64


def weight(row: Row, bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, K]: what the constants of the row mean, drawn as there, and |code| + |zero| as much."""
    rng, block = np.random.default_rng(0), row.block or K
    low, high = (0, 16) if row.asymmetric else (-7, 8)
    codes = rng.integers(low, high, (N, K // block, block)).astype(np.float64)
    zeros = rng.integers(low, high, (N, K // block, 1)) if row.asymmetric else np.zeros(1)
    scales = rng.uniform(0.01, 0.3, (N, K // block, 1)).astype(np.float16).astype(np.float64)
    parts = (codes - zeros) * scales, (np.abs(codes) + np.abs(zeros)) * scales
    return parts[0].reshape(N, K), parts[1].reshape(N, K)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(("name", "bits", "block"), [("int4", 4, 32), ("int8", 8, 0)])
def test_product_of_floats(name: str, bits: int, block: int, asymmetric: bool) -> None:
    row = Row("p", name, bits, block, M, 1.0, asymmetric=asymmetric, activation="f32", k=K, n=N)
    (peer,) = openvino_peers(row, 1)
    (run,) = peer.build()
    gc.collect()
    x = row.inputs().astype(np.float64)
    w, parts = weight(row, bits)
    (y,) = run().values()
    # Weights of two roundings to 11 bits (the float16 of the pattern; with AVX-512 code and zero
    # point are scaled each by itself), sums of K terms in float32.
    bound = (2 * 2.0**-11 + 2 * K * 2.0**-24) * (np.abs(x) @ parts.T)
    assert (np.abs(y - x @ w.T) <= bound).all()
    where = np.unravel_index(np.argmax(np.abs(w)), w.shape)
    w[where] *= -1  # one weight of the other sign must not pass
    assert (np.abs(y - x @ w.T) > bound).any()


def test_int8_saturates_without_vnni_alone() -> None:
    """ONNX Runtime in float says what is exact."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(extreme_model().SerializeToString(), options)
    x = np.full((1, CHANNELS, SIDE, SIDE), 255, np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], EXACT, rtol=1e-6)
    has_vnni = "vnni" in runtime_ops.supported_isas()[-1]
    assert (openvino_share() > 0.99) == has_vnni
