# SPDX-License-Identifier: Apache-2.0
"""Scales as bytes (docs/layouts.md): f32, f16, bf16, e8m0 and ue4m3, times one scale of the tensor.

e8m0 is the shared exponent of OCP Microscaling 1.0 (section 5.4.1), ue4m3 the positive half of
E4M3 of the OCP 8-bit floating point specification, as NVFP4 takes it. All little-endian.
"""

import numpy as np
from numpy.typing import NDArray

SIZES = {"none": 0, "e8m0": 1, "ue4m3": 1, "f16": 2, "bf16": 2, "f32": 4}
FLOATS: dict[str, np.dtype] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}


def _ue4m3_numbers() -> NDArray[np.float32]:
    """What the bytes 0 … 126 mean, ascending; 127 is NaN and never written."""
    exponent, mantissa = np.divmod(np.arange(127), 8)
    numbers = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return numbers.astype(np.float32)


UE4M3 = _ue4m3_numbers()


def scale_bytes(scale_format: str) -> int:
    """Bytes of one scale; 0 for "none"."""
    return SIZES[scale_format]


def scale_as_bytes(
    scale: NDArray[np.float32], scale_format: str, tensor_scale: float = 1.0
) -> NDArray[np.uint8]:
    """Effective scales [..., n] as uint8 [..., n · bytes] of what is stored.

    The stored number times `tensor_scale`, in one float32 rounding, must be the scale again, which
    `numerics.store_scale` sees to; ValueError names the first that is none. A scale of 0 stands for
    a padded output.

    >>> scale_as_bytes(np.array([0.5, 2.0], np.float32), "e8m0").tolist()
    [126, 128]
    """
    scale = np.asarray(scale, np.float32)
    wanted = scale.astype(np.float64) / np.float64(np.float32(tensor_scale))
    stored = _nearest(wanted, scale_format)
    if scale_format == "f32":
        stored = _preimage(stored, scale, np.float32(tensor_scale))
    got = _numbers(stored, scale_format) * np.float32(tensor_scale)
    wrong = np.argwhere(got != scale)
    if wrong.size:
        at = tuple(wrong[0])
        raise ValueError(
            f"scale {scale[at]:.9g} is no {scale_format} times {tensor_scale:.9g} "
            "(docs/layouts.md); store it with numerics.store_scale first"
        )
    return np.ascontiguousarray(stored).view(np.uint8)


def scale_from_bytes(
    data: NDArray[np.uint8], scale_format: str, tensor_scale: float = 1.0
) -> NDArray[np.float32] | None:
    """The inverse of `scale_as_bytes`; None for "none". ValueError for bytes that mean no scale."""
    if scale_format == "none":
        return None
    data = np.ascontiguousarray(data)
    unused = {"e8m0": 255, "ue4m3": 127}.get(scale_format)
    if unused is not None and (data >= unused).any():
        raise ValueError(f"a byte {data.max()} of {scale_format} scales is no number")
    stored = data.view(
        FLOATS.get(scale_format, np.dtype("<u2" if scale_format == "bf16" else "u1"))
    )
    return _numbers(stored, scale_format) * np.float32(tensor_scale)


def _nearest(wanted: NDArray[np.float64], scale_format: str) -> NDArray:
    """The stored form nearest to float64 numbers."""
    if scale_format in FLOATS:
        kind: np.dtype = FLOATS[scale_format]
        with np.errstate(over="ignore"):
            return np.asarray(wanted).astype(kind)
    if scale_format == "bf16":
        bits = np.ascontiguousarray(wanted, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    if scale_format == "e8m0":
        with np.errstate(divide="ignore", invalid="ignore"):
            exponent = np.rint(np.log2(wanted)) + 127
        return np.where(wanted > 0, np.clip(exponent, 1, 254), 0).astype(np.uint8)
    middles = (UE4M3[1:].astype(np.float64) + UE4M3[:-1]) / 2
    return np.searchsorted(middles, wanted).astype(np.uint8)


def _preimage(
    stored: NDArray[np.float32], scale: NDArray[np.float32], factor: np.float32
) -> NDArray[np.float32]:
    """stored or the neighbour whose product with the factor is the scale."""
    for side in (-np.inf, np.inf):
        other = np.nextafter(stored, np.float32(side))
        stored = np.where((stored * factor != scale) & (other * factor == scale), other, stored)
    return stored


def _numbers(stored: NDArray, scale_format: str) -> NDArray[np.float32]:
    """What the stored forms mean, float32."""
    if scale_format in FLOATS:
        return stored.astype(np.float32)
    if scale_format == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if scale_format == "e8m0":
        return (stored.astype(np.uint32) << 23).view(np.float32)
    return UE4M3[stored]
