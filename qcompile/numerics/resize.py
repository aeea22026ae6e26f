# SPDX-License-Identifier: Apache-2.0
"""QResize: bilinear interpolation of quantized maps, NHWC (N27)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@dataclass(frozen=True)
class Grid:
    """Where outputs lie: the mode of ONNX's Resize, and scales or sizes of height and width."""

    mode: str
    scales: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()

    def places(self, axis: int, size: int) -> tuple[NDArray, NDArray, NDArray]:
        """Of the outputs of an axis the two inputs, and the weight of the second, float32."""
        f32 = np.float32
        scale = f32(self.sizes[axis]) / f32(size) if self.sizes else f32(self.scales[axis])
        count = self.sizes[axis] if self.sizes else int(np.floor(f32(size) * scale))
        at = np.arange(count, dtype=np.float32)
        if self.mode == "asymmetric":
            at = at / scale
        elif self.mode == "align_corners":
            at = at * f32(size - 1) / f32(max(count - 1, 1))
        elif self.mode == "half_pixel" or count > 1:
            at = (at + f32(0.5)) / scale - f32(0.5)
        at = np.clip(at, f32(0), f32(size - 1))
        first = at.astype(np.int64)
        return first, np.minimum(first + 1, size - 1), at - first.astype(np.float32)


def qresize(
    x: NDArray[np.uint8],
    grid: Grid,
    multiplier: float,
    x_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """uint8 [B, H, W, C] to uint8 [B, OH, OW, C] (N27); multiplier is `x_scale / y_scale`.

    >>> x = np.uint8([[[[0], [4]]]])
    >>> qresize(x, Grid("asymmetric", scales=(1.0, 2.0)), 1.0, 0, 0).ravel().tolist()
    [0, 2, 4, 4]
    """
    centred = (x.astype(np.int32) - x_zero_point).astype(np.float32)
    top, bottom, down = grid.places(0, x.shape[1])
    left, right, across = grid.places(1, x.shape[2])
    across, down = across[:, None], down[:, None, None]
    rows = [
        centred[:, row][:, :, left] * (1 - across) + centred[:, row][:, :, right] * across
        for row in (top, bottom)
    ]
    value = (rows[0] * (1 - down) + rows[1] * down) * np.float32(multiplier)
    code = np.rint(value).astype(np.float64) + y_zero_point
    return np.clip(code, y_min, y_max).astype(np.uint8)
