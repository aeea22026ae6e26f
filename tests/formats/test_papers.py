# SPDX-License-Identifier: Apache-2.0
"""What papers' formats lose, on drawn weights and on those of networks: figures and order."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.linalg import hadamard

from models import charlm, vit_digits
from qcompile.distribution import distribution_of
from qcompile.format_theory import best_split
from qcompile.formats import get
from qcompile.formats.scales import with_unit
from qcompile.load import load
from qcompile.normalise import normalise
from qcompile.observers.weight_range import code_weight, squared_error
from qcompile.spec import QuantSpec

Weights = NDArray[np.float32]
DATA = Path(os.environ.get("QC_DATA", "absent"))
BROKEN = "e[0,1,2,3,4,6,8,12,0,-1,-2,-3,-4,-6,-8,-8]"  # e2m1 without its least code
AXIS, BLOCK = "axis(axis=0)/sym/f32", "block(axis=1,size=128)"


def loss(weight: Weights, text: str, method: str = "mse") -> float:
    """Squared error over energy."""
    spec = QuantSpec.parse(text)
    return squared_error(weight, spec, method) / float(np.square(weight, dtype=np.float64).sum())


def spread(weight: Weights, text: str, method: str = "mse") -> float:
    """Four standard deviations of `loss` between draws of independent weights.

    By the delta method of a ratio of means: √(Var(e² − loss · w²) / n) / E w².
    """
    coded = code_weight(weight, QuantSpec.parse(text), method)
    energy = np.square(weight.astype(np.float64))
    rest = (
        np.square(coded.decode() - weight.astype(np.float64)) - loss(weight, text, method) * energy
    )
    return float(4 * rest.std() / np.sqrt(weight.size) / energy.mean())


def agrees(weight: Weights, text: str, figure: float, unit: float, method: str = "mse") -> bool:
    """Whether the loss is the figure: both are of a draw, and the figure is rounded to units."""
    off = abs(loss(weight, text, method) - figure)
    return off <= 2**0.5 * spread(weight, text, method) + unit / 2


# Low-Bitwidth Floating-Point Quantization for Diffusion Models: floats win where tails are long.
@pytest.mark.parametrize(
    ("kind", "floats", "integers"),
    [("normal", 0.0127, 0.0131), ("laplace", 0.0186, 0.0278), ("uniform", 0.0099, 0.0045)],
)
def test_four_bits_with_one_scale(kind: str, floats: float, integers: float) -> None:
    """The figures, and one code that is missing gives others."""
    rng = np.random.default_rng(0)
    draws = {"normal": rng.normal, "laplace": rng.laplace, "uniform": rng.uniform}
    weight = draws[kind](-1 if kind == "uniform" else 0, 1, (1, 2**18)).astype(np.float32)
    texts = [f"{name}/tensor/sym/f32" for name in ("fp4", "int4")]
    assert agrees(weight, texts[0], floats, 1e-4) and agrees(weight, texts[1], integers, 1e-4)
    lost = [loss(weight, text) for text in texts]
    assert (lost[0] < lost[1]) == (kind != "uniform")
    assert not agrees(weight, f"{BROKEN}/tensor/sym/f32", floats, 1e-4)


def test_four_bits_of_heavy_tails() -> None:
    """Student-t with 3 degrees of freedom, whose fourth moment is infinite: the order alone."""
    for seed in range(5):
        weight = np.random.default_rng(seed).standard_t(3, (1, 2**16)).astype(np.float32)
        assert loss(weight, "fp4/tensor/sym/f32") < 0.7 * loss(weight, "int4/tensor/sym/f32")


def test_ternary_scales_of_normal_weights() -> None:
    """Ternary Weight Networks and both BitNets."""
    weight = np.random.default_rng(1).standard_normal((1, 2**18)).astype(np.float32)
    for way, figure in (("mse", 0.191), ("absmean", 0.264), ("absmedian", 0.318)):
        assert agrees(weight, f"ternary/{AXIS}", figure, 1e-3, way)
        assert not agrees(weight, f"ternary/{AXIS}", 1.05 * figure, 1e-3, way)


def inner_weights(name: str) -> list[Weights]:
    """Weights [N, K] of a ResNet with folded normalisations, but the first and the last."""
    graph = normalise(load(DATA / f"cifar_resnet/{name}_cifar10.onnx")).graph
    held = [n.inputs[1].const_value.numpy() for n in graph if n.op_type == "Conv"]
    return [np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(len(w), -1) for w in held[1:]]


@pytest.mark.skipif(not DATA.is_dir(), reason="QC_DATA is not set")
def test_resnet20() -> None:
    """Means over its layers, to the last digit; the order of BitMoD, ABQ-LLM and TWN."""
    weights = inner_weights("resnet20")

    def mean(text: str, method: str = "mse") -> float:
        return float(np.mean([loss(weight, text, method) for weight in weights]))

    ternary = [mean(f"ternary/{AXIS}", way) for way in ("mse", "absmean", "absmedian")]
    assert ternary == pytest.approx([0.2192, 0.3199, 0.3967], abs=1e-4)
    two = [mean(f"{name}/{AXIS}") for name in ("balanced2", "int2")]
    assert two == pytest.approx([0.1009, 0.2194], abs=1e-4)
    texts = [f"bitmod3/{BLOCK}/sym/f32", f"uint3/{BLOCK}/asym/f32", f"e2m0/{BLOCK}/sym/f32"]
    three = [mean(text, "minmax") for text in texts]
    assert three == pytest.approx([0.0406, 0.0537, 0.0663], abs=1e-4)
    four = [mean(f"{name}/{BLOCK}/sym/f32", "minmax") for name in ("bitmod4", "e2m1")]
    assert four == pytest.approx([0.0098, 0.0124], abs=1e-4)


@pytest.mark.skipif(not DATA.is_dir(), reason="QC_DATA is not set")
def test_the_split_that_training_wants_is_not_that_of_trained_weights() -> None:
    """Sun et al. 2025, up to 5 bits; with more, two bits of exponent are enough for a row."""
    weights = inner_weights("resnet20")
    for bits in range(4, 9):
        splits = [(e, bits - 1 - e) for e in range(1, bits - 1)]
        lost = {(e, m): np.mean([loss(w, f"e{e}m{m}/{AXIS}") for w in weights]) for e, m in splits}
        best = min(lost, key=lost.__getitem__)
        assert best == (2, bits - 3)
        assert (lost[best_split(bits)] > 3 * lost[best]) == (bits > 5)


@pytest.mark.skipif(not DATA.is_dir(), reason="QC_DATA is not set")
def test_coded_size_of_resnet56() -> None:
    """The entropy of its 8-bit codes by the density: 2 % off in all, below 8 bits everywhere."""
    coded, entropy, count, worst = 0.0, 0.0, 0, 0.0
    for weight in inner_weights("resnet56"):
        _, counts = np.unique(np.rint(weight / (np.abs(weight).max() / 127)), return_counts=True)
        share = counts / weight.size
        own = -float((share * np.log2(share)).sum())
        found = distribution_of(weight).coded_bits
        assert found is not None and max(own, found) < 8
        worst = max(worst, abs(found / own - 1))
        coded, entropy, count = coded + found * weight.size, entropy + own * weight.size, count + 1
    assert coded == pytest.approx(entropy, rel=0.02) and count == 54  # P04: within 2 %
    assert worst == pytest.approx(0.125, abs=5e-4)  # what docs/analyze.md says of single layers


def two_dimensional(path: Path) -> list[Weights]:
    """Weights [N, K] of a network's products, K whole blocks of 32."""
    values = [numpy_helper.to_array(t).T for t in onnx.load(path).graph.initializer]
    kept = [v for v in values if v.ndim == 2 and min(v.shape) >= 32 and v.dtype == np.float32]
    return [np.ascontiguousarray(v[:, : v.shape[1] // 32 * 32]) for v in kept]


def nv_loss(weight: Weights, name: str) -> float:
    """In NVIDIA's blocks: 16 weights, UE4M3 scales of the largest in units of the tensor's."""
    unit = float(np.abs(weight).max()) / (448 * get(name).absmax(symmetric=True))
    scales = with_unit("ue4m3", float(np.float32(unit)))
    return loss(weight, f"{name}/block(axis=1,size=16)/sym/{scales}", "minmax")


REAL = [charlm.path(), vit_digits.path(), DATA / "stories260k/stories260k.onnx"]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_integers_beat_floats_in_blocks_of_turned_weights(path: Path) -> None:
    """INT v.s. FP, of nine weights in ten and of all in the sum; MXINT8 beats MXFP8 in all."""
    if not path.is_file():
        pytest.skip("QC_DATA is not set")
    rng, wins, lost = np.random.default_rng(0), [], np.zeros(2)
    for weight in two_dimensional(path):
        mx = [
            loss(weight, f"{f}/block(axis=1,size=32)/sym/e8m0", "minmax") for f in ("int8", "e4m3")
        ]
        assert mx[0] < mx[1]
        turn = rng.choice([-1, 1], 32)[:, None] * hadamard(32) / np.sqrt(32)
        turned = (weight.reshape(len(weight), -1, 32) @ turn).reshape(weight.shape)
        found = [nv_loss(np.ascontiguousarray(turned, np.float32), f) for f in ("int4", "e2m1")]
        wins.append(found[0] < found[1])
        lost += found
    assert len(wins) >= 8 and np.mean(wins) >= 0.9 and lost[0] < lost[1]
