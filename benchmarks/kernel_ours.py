# SPDX-License-Identifier: Apache-2.0
"""qcompile's way to do a row of benchmarks.kernels: a QMatMul with rotated weights."""

import numpy as np
import onnxruntime as ort

from benchmarks.convolutions import bound
from benchmarks.interleave import Candidate, idle_options
from benchmarks.kernel_ort import products_model
from benchmarks.kernel_rows import Row
from benchmarks.work import DECODE_PRODUCTS, OURS, Run, rotated
from qcompile import runtime_ops
from qcompile.formats import Format, get
from tests.runtime_ops import single_op as one

PANEL = 64


def ours(row: Row, threads: int, format: Format | None = None) -> Candidate:
    """A panel of random codes, then another, which is repeated: speed does not depend on them.

    format: another one than the row names, in benchmarks.kernel_formats.
    """
    chosen = format or get(row.format)
    rng = np.random.default_rng(0)
    weight = one.random_weight(
        rng, 2 * PANEL, row.k, chosen, row.block, "f16", with_zero_point=row.asymmetric
    )
    attributes = one.weight_attributes(weight) | {"N": row.n, "activation": row.activation}
    if row.activation == "dynamic":
        attributes["activation_bits"] = 8
    panels, x = np.split(one.pack(weight), 2), row.inputs()
    packed = np.concatenate([panels[0], *[panels[1]] * (row.n // PANEL - 1)])
    node = ("QMatMul", attributes | {"domain": "com.qcompile"})

    def build(count: int) -> Run:
        options = idle_options(threads)
        runtime_ops.register(options)
        model = products_model(node, x, {"w": packed}, count, panels[0].size)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return bound(session, {"x": x})

    runs = rotated(packed.size, build, is_decode=row.m == 1)
    return Candidate(
        format.name if format else OURS, runs, 1 / DECODE_PRODUCTS if row.m == 1 else 1.0
    )
