# SPDX-License-Identifier: Apache-2.0
"""Models that ONNX Runtime's own tools quantize, and reading what they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from qcompile.session import exact_options, open_model
from tests.pipeline.nets import Net, samples

TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8, "u16": QuantType.QUInt16}
FORMATS = {"qdq": QuantFormat.QDQ, "operators": QuantFormat.QOperator}


class _Reader(CalibrationDataReader):
    def __init__(self, net: Net) -> None:
        feed = samples(net)
        count = len(next(iter(feed.values())))
        self.feeds: Iterator[dict[str, NDArray]] = iter(
            [{k: v[i : i + 1] for k, v in feed.items()} for i in range(count)]
        )

    def get_next(self) -> dict[str, NDArray] | None:
        return next(self.feeds, None)


def static(
    net: Net, folder: Path, form: str, x: str, w: str, *, per_channel: bool, **options: Any
) -> Path:
    """The net quantized with static activations of type x and weights of type w."""
    out = folder / f"{form}_{x}{w}.onnx"
    quantize_static(
        net.save(folder / "float.onnx"),
        out,
        _Reader(net),
        quant_format=FORMATS[form],
        activation_type=TYPES[x],
        weight_type=TYPES[w],
        per_channel=per_channel,
        **options,
    )
    return out


def dynamic(net: Net, folder: Path, w: str) -> Path:
    """The net with activations that are quantized at run time."""
    out = folder / f"dynamic_{w}.onnx"
    quantize_dynamic(net.save(folder / "float.onnx"), out, weight_type=TYPES[w])
    return out


def constants(path: Path) -> dict[str, NDArray]:
    """The arrays that the file stores, by name."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def run(path: Path, feed: dict[str, NDArray]) -> list[NDArray]:
    """The user's model as ONNX defines it: nothing optimised, but for exact sums without VNNI."""
    model = ir.load(path)
    session = open_model(model, exact_options(model))
    return [np.asarray(v) for v in session.run(None, feed)]
