# SPDX-License-Identifier: Apache-2.0
"""The error of quantized products on calibration samples, with their inputs rotated or not.

Weights go to the nearest codes of their spec, activations to those of theirs, and the error of the
outputs is taken relative to the outputs. Rows of the inputs and of the weights are sampled: both
sides of a comparison have the same ones.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.graph import attribute, constant
from qcompile.moments import Source
from qcompile.norms import Norm
from qcompile.numerics.hadamard import Hadamard, Rotation
from qcompile.numerics.learned import Learned
from qcompile.numerics.ordering import Haar, Ordering
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import dequantize, quantize, quantize_dynamic
from qcompile.numerics.scaling import Moving, Scaling
from qcompile.observers import default_method, observer_of
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import scale_method
from qcompile.plan import NodePlan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.rotation_rows import Figures
from qcompile.spec import QuantSpec

Turning = Rotation | Hadamard | Scaling | Learned | Haar | Ordering | Moving
SAMPLES, ROWS, OUTPUTS = 16, 256, 128  # of the data, of each input, of each weight
_LEAST_ROWS = 16  # where many inputs share the memory


def sample_rows(
    model: ir.Model, sources: dict[str, Source], data: Data, division: Division, seed: int
) -> dict[str, NDArray[np.float32]]:
    """At most about ROWS rows [num, groups · K] of every source, from the first samples.

    All rows take at most a quarter of the memory that one method may take.
    """
    few = data.first(SAMPLES)
    widths = {key: source.columns * source.group for key, source in sources.items()}
    fitting = division.working_bytes // (16 * max(sum(widths.values()), 1))
    most = -(-max(min(ROWS, fitting), _LEAST_ROWS) // max(len(few.feeds), 1))
    found: dict[str, list[NDArray[np.float32]]] = {key: [] for key in sources}
    for group, arrays in division.runs(model, {k: [s.value] for k, s in sources.items()}, few):
        for key in group:
            x = np.atleast_2d(np.asarray(arrays[sources[key].value], np.float32))
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            rows = sources[key].rows(x, np.ones(len(x), np.bool_), most, rng)
            found[key] += [part.reshape(-1, widths[key]) for part in rows]
    return {k: np.concatenate([np.empty((0, widths[k]), np.float32), *p]) for k, p in found.items()}


@dataclass(frozen=True)
class Product:
    """A product on its samples.

    x float64 [rows, K]: its input, behind a norm without the norm's scale and shift, which the
    quantized input has before the rotation (gamma, beta float64 [K]). weight float32 [outputs, K].
    """

    x: NDArray[np.float64]
    weight: NDArray[np.float32]
    gamma: NDArray[np.float64] | None
    beta: NDArray[np.float64] | None
    plan: NodePlan
    kernel: int = 1  # elements of x a channel: of a window
    is_own: bool = False  # depthwise: x [rows, channels · kernel], weight [channels, kernel]
    has_bias: bool = False  # which takes back the mean error of every output

    @classmethod
    def of(
        cls, node: ir.Node, norm: Norm | None, rows: NDArray[np.float32], plan: NodePlan
    ) -> "Product":
        """Some of its outputs; rows are of the norm's source, or of the input."""
        weight = constant(weight_of(node))
        assert weight is not None
        if weight.ndim == 4:
            kernel, is_own = weight[0, 0].size, attribute(node, "group", 1) > 1
            if is_own or kernel > 1:
                most = len(weight) if is_own else OUTPUTS
                flat = np.ascontiguousarray(weight[:most].reshape(min(most, len(weight)), -1))
                return cls(rows.astype(np.float64), flat, None, None, plan, kernel, is_own)
        chosen = np.unique(np.linspace(0, len(weight) - 1, OUTPUTS).astype(np.int64))
        part = np.ascontiguousarray(weight[chosen].reshape(len(chosen), -1))
        if norm is None:
            return cls(rows.astype(np.float64), part, None, None, plan)
        gamma, beta = norm.gamma.astype(np.float64), norm.beta.astype(np.float64)
        return cls(normed(rows, norm), part, gamma, beta, plan)

    def measure(self, rotation: Turning | None, recipe: Recipe) -> tuple[float, NDArray]:
        """Noise ÷ signal of the outputs, and the input as it is quantized, float32."""
        x, weight = self.x, self.weight.astype(np.float64)
        if self.kernel > 1 or self.is_own:
            return self._measure_window(rotation, recipe)
        if rotation is not None:
            wide = weight if self.gamma is None else weight * self.gamma
            given, turned = rotation.times(x), rotation.readers(wide)
        elif self.gamma is None or self.beta is None:
            given, turned = x, weight
        else:
            given, turned = x * self.gamma + self.beta, weight
        narrow = given.astype(np.float32)
        # What a shift adds to the outputs goes into the bias and is no part of the signal.
        own = x @ weight.T if isinstance(rotation, Moving) else None
        found = turned.astype(np.float32)
        return noise(narrow, found, self.plan, recipe, own, has_bias=self.has_bias), narrow

    def _measure_window(self, scaling: Turning | None, recipe: Recipe) -> tuple[float, NDArray]:
        """Of a convolution with a window, or of channels by themselves, with scales of channels."""
        x, weight = self.x, self.weight.astype(np.float64)
        if scaling is not None:
            assert isinstance(scaling, Scaling)  # nothing else passes
            s = np.repeat(np.array(scaling.scales), self.kernel)
            x, weight = x / s, weight * (s.reshape(weight.shape) if self.is_own else s)
        narrow, found = x.astype(np.float32), weight.astype(np.float32)
        wanted = self._apply(narrow, found)
        codes = coded(found, self.plan, recipe)
        gap = self._apply(rounded(narrow, self.plan.activation, recipe), codes) - wanted
        if self.has_bias and len(gap):
            gap -= gap.mean(0)
        signal = float((wanted**2).sum())
        return float((gap**2).sum()) / signal if signal else 0.0, narrow

    def _apply(self, x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
        """The outputs."""
        wide, w = x.astype(np.float64), weight.astype(np.float64)
        return (wide.reshape(len(x), *w.shape) * w).sum(2) if self.is_own else wide @ w.T


def normed(rows: NDArray[np.float32], norm: Norm) -> NDArray[np.float64]:
    """The norm of rows [num, K] without scale and shift."""
    x = rows.astype(np.float64)
    if norm.is_centred:
        x = x - x.mean(1, keepdims=True)
    return np.asarray(x / np.sqrt((x * x).mean(1, keepdims=True) + norm.epsilon))


def noise(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    plan: NodePlan,
    recipe: Recipe,
    own: NDArray[np.float64] | None = None,
    *,
    has_bias: bool = False,
) -> float:
    """‖Q(x) Q(W)ᵀ − x Wᵀ‖² ÷ ‖x Wᵀ‖², or ÷ ‖own‖²; 0 where the outputs are 0.

    has_bias: without the mean error of each output.
    """
    wanted = x.astype(np.float64) @ weight.astype(np.float64).T
    given = rounded(x, plan.activation, recipe).astype(np.float64)
    found = given @ coded(weight, plan, recipe).astype(np.float64).T
    signal = float(((wanted if own is None else own) ** 2).sum())
    gap = found - wanted
    if has_bias and len(gap):
        gap -= gap.mean(0)
    return float((gap**2).sum()) / signal if signal else 0.0


def coded(weight: NDArray[np.float32], plan: NodePlan, recipe: Recipe) -> NDArray[np.float32]:
    """What a weight [N, K] is worth as the nearest codes."""
    spec = plan.weight
    assert spec is not None
    return code_weight(weight, spec, scale_method(spec, recipe.weight_scale_method)).decode()


def rounded(x: NDArray[np.float32], spec: QuantSpec | None, recipe: Recipe) -> NDArray[np.float32]:
    """What rows [num, K] are worth as codes; static ones have the range of these rows."""
    if spec is None:
        return x
    if spec.is_dynamic:
        axes = (0, 1) if spec.granularity == "sample" else (1,)  # of maps rows are pixels
        codes, scale = quantize_dynamic(x, axes, spec.bits, spec.reach)
        return codes.astype(np.float32) * scale
    method = recipe.calibration_method or default_method(spec.format)
    observer = observer_of(method, recipe.calibration_percentile, spec.format)
    observer.update(x)
    params = params_of_range(*observer.range(), spec.format)
    return dequantize(
        quantize(x, params.scale, params.zero_point, spec.format, symmetric=False),
        np.float32(params.scale),
        params.zero_point,
        spec.format,
    )


def figures(
    products: Iterable[Product], turnings: Sequence[Turning | None], recipe: Recipe
) -> list[tuple[float, Figures]]:
    """For each turning the mean noise ÷ signal of the products, and what is reported of it.

    Of the products one is in memory at a time.
    """
    sums = np.zeros((len(turnings), 3))
    count = 0
    for product in products:
        count += 1
        for number, turning in enumerate(turnings):
            error, x = product.measure(turning, recipe)
            sums[number] += error, *shape_of(x)
    return [_figures(*row) for row in (sums / max(count, 1)).tolist()]


def _figures(mean: float, kurtosis: float, crest: float) -> tuple[float, Figures]:
    decibels = -10 * float(np.log10(mean)) if mean > 0 else float("inf")
    return mean, Figures(decibels, kurtosis, crest)


def shape_of(x: NDArray[np.float32]) -> tuple[float, float]:
    """Kurtosis and crest factor of rows, on average; rows of zeros do not count.

    >>> shape_of(np.array([[3, 0, 0, 0], [1, 1, 1, -1]], np.float32))
    (2.5, 1.5)
    """
    wide = x.astype(np.float64)
    power = (wide * wide).mean(1)
    wide, power = wide[power > 0], power[power > 0]
    if not len(wide):
        return 0.0, 0.0
    kurtosis = (wide**4).mean(1) / power**2
    return float(kurtosis.mean()), float((np.abs(wide).max(1) / np.sqrt(power)).mean())
