# SPDX-License-Identifier: Apache-2.0
"""QAttention with the weights of each softmax format beside those of uint8, in one loop.

python -m benchmarks.softmax_formats [--rounds N] [--seconds S] [--sizes HEADSxLxD ...]
"""

import argparse

import numpy as np
from onnx import TensorProto

from benchmarks.interleave import Candidate, Ratio, measure
from qcompile.numerics.softmax_formats import NAMES, UNIFORM, SoftmaxFormat
from qcompile.runtime_ops import supported_isas
from tests.runtime_ops.single_op import build, session

SIZES = ("3x197x64", "4x65x32", "12x1024x64")  # heads, rows and keys, numbers of a head
POINTS = {"q_zero_point": 128, "k_zero_point": 128, "v_zero_point": 128, "y_zero_point": 128}
NUMBERS = {"multiplier": 5e-5, "y_multiplier": 2.0, "y_min": 0, "y_max": 255}


def candidate(softmax: SoftmaxFormat, sizes: tuple[int, int, int]) -> Candidate:
    """One thread, random codes."""
    heads, length, depth = sizes
    rng = np.random.default_rng(0)
    shapes = ((heads, length, depth), (heads, depth, length), (heads, length, depth))
    inputs = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    given = POINTS | NUMBERS | {"softmax_format": softmax.name}
    given |= {"softmax_shift": softmax.shift} if softmax.shift else {}
    opened = session(build("QAttention", inputs, given, [(TensorProto.UINT8, 3)], (0, 1, 2)))
    feed = {f"input_{i}": x for i, x in enumerate(inputs)}
    return Candidate(softmax.name, [lambda: opened.run(None, feed)])


def main() -> None:
    """Prints a line for each size and format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a size, at most")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    args = parser.parse_args()
    formats = [SoftmaxFormat.parse(name) for name in NAMES]
    formats = [each.with_shift(each.shifts[-1]) for each in formats]
    print(f"{supported_isas()[-1]}, one thread; times ÷ those of {UNIFORM}")
    for size in args.sizes:
        heads, length, depth = map(int, size.split("x"))
        made = [candidate(each, (heads, length, depth)) for each in formats]
        times = measure(made, args.rounds, args.seconds)
        for name in NAMES:
            ratio = Ratio.of(times[name] / times[UNIFORM])
            least = times[name].min() / times[UNIFORM].min()
            print(
                f"{size:12} {name:8} {times[name].min() * 1e6:8.0f} us  {least:.2f} x; "
                f"median {ratio.median:.2f} ({ratio.low:.2f} ... {ratio.high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
