# SPDX-License-Identifier: Apache-2.0
"""Products of table formats beside those of the integers of as many bits, in one loop.

python -m benchmarks.kernel_formats [--rounds N] [--seconds S] [--rows M ...] [--only TEXT ...]
"""

import argparse

import numpy as np

from benchmarks.interleave import Ratio, measure
from benchmarks.kernel_ours import ours
from benchmarks.kernel_rows import Row
from qcompile.formats import Format, get
from qcompile.formats.bitmod import BITMOD3, BITMOD4
from qcompile.formats.codebook import LARGEST
from qcompile.runtime_ops import supported_isas

BLOCK = 128


def table(bits: int, largest: int) -> Format:
    """Entries spread as those of normal quantiles are, up to a magnitude; as NF4's do, in int16."""
    points = np.linspace(-1, 1, 2**bits)
    values = np.rint(np.sign(points) * np.abs(points) ** 1.5 * largest).astype(int)
    return Format(
        f"table{bits} of int{8 if largest < 128 else 16}", bits, True, tuple(values.tolist())
    )


FORMATS = (
    get("e2m1"),
    BITMOD4,
    BITMOD3,
    *(table(bits, 127) for bits in (3, 4, 5, 6, 7, 8)),
    *(table(bits, LARGEST) for bits in (3, 4, 5, 6, 7, 8)),
)


def compare(format: Format, m: int, rounds: int, seconds: float) -> tuple[float, float, Ratio]:
    """Least microseconds of a product 4096 x 4096; that and all times over those of integers.

    The least times of both are those that other work on the machine disturbed least.
    """
    row = Row("formats", f"int{format.bits}", format.bits, BLOCK, m, 1.0)
    times = measure([ours(row, 1), ours(row, 1, format)], rounds, seconds)
    mine, integers = times[format.name], times["ours"]
    return float(mine.min()) * 1e6, float(mine.min() / integers.min()), Ratio.of(mine / integers)


def main() -> None:
    """Prints a line for each format and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a line, at most")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 128])
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    args = parser.parse_args()
    print(f"{supported_isas()[-1]}, one thread, 4096 x 4096, blocks of {BLOCK}, 8-bit activations")
    for format in FORMATS:
        if not any(text in format.name for text in args.only):
            continue
        for m in args.rows:
            us, least, ratio = compare(format, m, args.rounds, args.seconds)
            print(
                f"{format.name:16} M={m:<4} {us:9.0f} us  {least:.2f} x int{format.bits}; "
                f"median {ratio.median:.2f} ({ratio.low:.2f} ... {ratio.high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
