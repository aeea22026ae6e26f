# SPDX-License-Identifier: Apache-2.0
"""QConv: 2-D convolutions, NHWC, grouped and depthwise (N10 … N15)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.dyadic import INT32
from qcompile.numerics.matmul import INFINITE, UNIT, exact_product
from qcompile.numerics.quantize import quantize_dynamic
from qcompile.numerics.requantize import requantize, rescale_sum, scale_sum
from qcompile.numerics.weight import CodedWeight


@dataclass(frozen=True)
class Window:
    """Where a kernel looks: (kh, kw), strides, pads (top, left, bottom, right), dilations.

    is_ceil: a last window may reach beyond the padding (ONNX's ceil_mode).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    is_ceil: bool = False

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output; 0 where the kernel does not fit.

        With is_ceil a single window may reach beyond the padding by less than a stride.

        >>> [Window((3, 1), (s, 1), is_ceil=c).output_size(2, 1) for s in (1, 2) for c in (0, 1)]
        [(0, 1), (0, 1), (0, 1), (1, 1)]
        """
        out = []
        for i, size in enumerate((height, width)):
            span = self.dilations[i] * (self.kernel[i] - 1) + 1
            room = size + self.pads[i] + self.pads[i + 2] - span
            step = self.strides[i]
            count = (-(-room // step) if self.is_ceil else room // step) + 1
            # A last window beyond the input and its padding before is none.
            count -= self.is_ceil and (count - 1) * step >= size + self.pads[i]
            out.append(max(count, 0))
        return out[0], out[1]


def patches(x: NDArray, window: Window, pad: int | float = 0) -> NDArray:
    """x [B, H, W, C] to [B, OH, OW, kh·kw, C]; the border reads `pad`."""
    top, left, bottom, right = window.pads
    if window.is_ceil:  # windows reach beyond the padding, by less than a stride
        bottom, right = bottom + window.strides[0] - 1, right + window.strides[1] - 1
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad)
    oh, ow = window.output_size(x.shape[1], x.shape[2])
    (sh, sw), (dh, dw) = window.strides, window.dilations
    taps = [
        padded[
            :, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw
        ]
        if oh and ow
        else np.zeros((x.shape[0], oh, ow, x.shape[3]), x.dtype)
        for i in range(window.kernel[0])
        for j in range(window.kernel[1])
    ]
    return np.stack(taps, axis=3)


def accumulate(codes: NDArray, values: NDArray, window: Window, group: int) -> NDArray[np.int64]:
    """Exact sums [B, OH, OW, N] of centred codes [B, H, W, C] with values [N, kh·kw·C/group]."""
    columns = patches(codes, window)
    b, oh, ow, taps, channels = columns.shape
    out_group, in_group = values.shape[0] // group, channels // group
    parts = []
    for g in range(group):
        chosen = columns[..., g * in_group : (g + 1) * in_group].reshape(
            b * oh * ow, taps * in_group
        )
        parts.append(exact_product(chosen, values[g * out_group : (g + 1) * out_group]))
    return np.concatenate(parts, axis=1).reshape(b, oh, ow, len(values))


def qconv_static(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray,
    window: Window,
    group: int,
    x_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """Static uint8 [B, H, W, C] to uint8 [B, OH, OW, N] (N11, N12, N15)."""
    acc = accumulate(x.astype(np.int32) - x_zero_point, weight.values(), window, group)
    return requantize(acc, 0 if bias is None else bias, multiplier, y_zero_point, y_min, y_max)


def qconv_scaled(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray[np.float32],
    window: Window,
    group: int,
    x_zero_point: int,
    clip: tuple[float, float] = INFINITE,
) -> NDArray[np.float32]:
    """Static uint8 [B, H, W, C] to float32 [B, OH, OW, N] (N15, N16)."""
    acc = accumulate(x.astype(np.int32) - x_zero_point, weight.values(), window, group)
    return scale_sum(acc, 0 if bias is None else bias, multiplier, clip)


def qconv_summed(
    x: NDArray[np.uint8],
    weight: CodedWeight,
    bias: NDArray[np.int32] | None,
    multiplier: NDArray[np.int32],
    window: Window,
    group: int,
    x_zero_point: int,
    y_min: int = INT32[0],
    y_max: int = INT32[1],
) -> NDArray[np.int32]:
    """Static uint8 [B, H, W, C] to int32 [B, OH, OW, N] (N15, N17)."""
    acc = accumulate(x.astype(np.int32) - x_zero_point, weight.values(), window, group)
    return rescale_sum(acc, 0 if bias is None else bias, multiplier, y_min, y_max)


def qconv_dynamic(
    x: NDArray[np.float32],
    weight: CodedWeight,
    bias: NDArray[np.float32] | None,
    window: Window,
    group: int = 1,
    bits: int = 8,
    clip: tuple[float, float] = INFINITE,
    reach: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dynamic [B, H, W, C] to (y, bound), float64 [B, OH, OW, N]; a scale a sample (N4, N13)."""
    assert weight.scale is not None
    codes, x_scale = quantize_dynamic(x, (1, 2, 3), bits, reach)
    values, size = weight.values(), weight.block
    y: NDArray[np.float64] = np.zeros(1)
    magnitude: NDArray[np.float64] = np.zeros(1)
    for block in range(weight.num_blocks):
        inside = np.zeros_like(values)
        inside[:, block * size : (block + 1) * size] = values[:, block * size : (block + 1) * size]
        term = weight.scale[:, block].astype(np.float64) * accumulate(codes, inside, window, group)
        y, magnitude = y + term, magnitude + np.abs(term)
    offset = np.float64(0) if bias is None else bias.astype(np.float64)
    bound = (weight.num_blocks + 4) * UNIT * (x_scale * magnitude + np.abs(offset))
    return np.clip(x_scale * y + offset, *clip), bound
