# SPDX-License-Identifier: Apache-2.0
"""Scales as bytes: every number of every format there and back, and what is no number."""

import numpy as np
import pytest

from qcompile.layouts.scales import UE4M3, scale_as_bytes, scale_bytes, scale_from_bytes


def every(scale_format: str) -> np.ndarray:
    """Every byte pattern of a positive, normal number of the format."""
    if scale_format == "e8m0":
        return np.arange(1, 255, dtype=np.uint8)[:, None]
    if scale_format == "ue4m3":
        return np.arange(1, 127, dtype=np.uint8)[:, None]
    first, end = {"f16": (0x0400, 0x7C00), "bf16": (0x0080, 0x7F80)}[scale_format]
    return np.arange(first, end, dtype="<u2").reshape(-1, 1).view(np.uint8)


@pytest.mark.parametrize("scale_format", ["e8m0", "ue4m3", "f16", "bf16"])
@pytest.mark.parametrize("tensor_scale", [1.0, 0.37, 2.0**-9])
def test_every_number_there_and_back(scale_format: str, tensor_scale: float) -> None:
    data = every(scale_format)
    scale = scale_from_bytes(data, scale_format, tensor_scale)
    assert scale is not None and scale.dtype == np.float32
    normal = (scale >= 2.0**-126) & np.isfinite(scale)
    kept, scale = data[normal[:, 0]], scale[normal]
    again = scale_as_bytes(scale[:, None], scale_format, tensor_scale)
    np.testing.assert_array_equal(again, kept)
    assert again.shape[1] == scale_bytes(scale_format)
    assert (np.diff(scale) > 0).all()


def test_the_numbers_by_their_definitions() -> None:
    """OCP E4M3: 2^-9 is the least subnormal, 2^-6 the least normal number, 448 the largest."""
    assert UE4M3[[0, 1, 7, 8, 126]].tolist() == [0, 2.0**-9, 7 * 2.0**-9, 2.0**-6, 448]
    assert scale_from_bytes(np.uint8([1, 127, 254]), "e8m0").tolist() == [2.0**-126, 1, 2.0**127]
    assert scale_as_bytes(np.float32([1.0]), "bf16").tolist() == [0x80, 0x3F]


def test_float32_scales_times_any_tensor_scale() -> None:
    rng = np.random.default_rng(0)
    stored = rng.uniform(0.01, 3, 5000).astype(np.float32)
    for tensor_scale in (0.3, 1.7, 3e-5):
        scale = stored * np.float32(tensor_scale)
        data = scale_as_bytes(scale, "f32", tensor_scale)
        np.testing.assert_array_equal(scale_from_bytes(data, "f32", tensor_scale), scale)


@pytest.mark.parametrize(
    "scale_format,value", [("e8m0", 3.0), ("e8m0", -1.0), ("ue4m3", 500.0), ("bf16", 1.001)]
)
def test_what_no_format_holds(scale_format: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"is no {scale_format} times 1"):
        scale_as_bytes(np.float32([value]), scale_format)


@pytest.mark.parametrize("scale_format,byte", [("e8m0", 255), ("ue4m3", 127), ("ue4m3", 200)])
def test_bytes_that_are_no_number(scale_format: str, byte: int) -> None:
    with pytest.raises(ValueError, match=f"a byte {byte} of {scale_format} scales is no number"):
        scale_from_bytes(np.uint8([byte]), scale_format)
