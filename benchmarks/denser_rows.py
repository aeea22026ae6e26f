# SPDX-License-Identifier: Apache-2.0
"""One row times 4096 × 4096 in the layouts that are smaller than n16k4, beside it.

    python -m benchmarks.denser_rows [--rounds 16] [--activation dynamic|f32] [--size 4096]

Every run is of the operator in ONNX Runtime, one thread, with copies of the weight that fill more
than the caches (work.rotated); candidates take turns, and a time is the median of the rounds, the
ratio to int4 that of the same rounds.
"""

import argparse
import time

import numpy as np
import onnxruntime as ort

from benchmarks.convolutions import bound
from benchmarks.interleave import Ratio, idle_options
from benchmarks.kernel_ort import products_model
from benchmarks.work import DECODE_PRODUCTS, Run, rotated
from qcompile import runtime_ops
from qcompile.formats import get
from qcompile.layouts import LAYOUTS
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops import single_op as one

PANEL, BLOCK = 64, 96
KINDS = (
    *(("n16k4/1", "int4"), ("n16k4s/1", "int4"), ("n16k4/1", "int3"), ("n16k4s/1", "int3")),
    *(("n16k4/1", "balanced2"), ("n16k4q/1", "balanced2"), ("n16k4/1", "int2")),
)


def runs_of(layout: str, name: str, size: int, activation: str) -> tuple[float, list[Run]]:
    """Bytes, and runs of the product: a panel of random codes, then another, which is repeated."""
    rng, format = np.random.default_rng(0), get(name)
    weight = one.random_weight(rng, 2 * PANEL, size, format, BLOCK, "f16")
    codes = np.minimum(weight.codes, 4) if name == "balanced2" else weight.codes
    weight = CodedWeight(codes, weight.scale, None, format, BLOCK, "f16")
    weight = one.sparse(rng, weight) if layout == "n16k4s/1" else weight
    attributes = one.weight_attributes(weight, layout) | {"N": size, "activation": activation}
    attributes |= {"activation_bits": 8} if activation == "dynamic" else {}
    panels = np.split(LAYOUTS[layout].pack(weight), 2)
    packed = np.concatenate([panels[0], *[panels[1]] * (size // PANEL - 1)])
    x = rng.standard_normal((1, size), dtype=np.float32)
    node = ("QMatMul", attributes | {"domain": "com.qcompile"})

    def build(count: int) -> Run:
        options = idle_options(1)
        runtime_ops.register(options)
        model = products_model(node, x, {"w": packed}, count, panels[0].size)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return bound(session, {"x": x})

    return packed.size, rotated(packed.size, build, is_decode=True)


def main() -> None:
    """Print a line for each layout and format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--activation", default="dynamic", choices=("dynamic", "f32"))
    parser.add_argument("--size", type=int, default=4096)
    given = parser.parse_args()
    candidates = {kind: runs_of(*kind, given.size, given.activation) for kind in KINDS}
    times = {kind: np.zeros(given.rounds) for kind in KINDS}
    for number in range(given.rounds):
        for kind, (_, runs) in candidates.items():
            began = time.perf_counter()
            for run in runs:
                run()
            spent = time.perf_counter() - began
            times[kind][number] = spent / len(runs) / DECODE_PRODUCTS
    for kind, (size, _) in candidates.items():
        ratio = Ratio.of(times[kind] / times[KINDS[0]])
        print(
            f"{kind[0]:9} {kind[1]:10} {8 * size / given.size**2:.3f} bits "
            f"{1e6 * np.median(times[kind]):7.1f} µs  {ratio.median:.3f} of int4 "
            f"[{ratio.low:.3f}, {ratio.high:.3f}]"
        )


if __name__ == "__main__":
    main()
