# SPDX-License-Identifier: Apache-2.0
"""softmax_listing: what `qcompile formats` says of the weights of attention (N30, N43)."""

from typing import Any

import qcompile.targets as targets
from qcompile.numerics.softmax_formats import NAMES, SoftmaxFormat
from qcompile.softmax_choice import NOT_HERE

KERNELS = "attention of static codes"


def softmax_listed() -> list[dict[str, Any]]:
    """A row for every name that `--softmax-format` takes."""
    return [_row(SoftmaxFormat.parse(name)) for name in NAMES]


def _row(form: SoftmaxFormat) -> dict[str, Any]:
    """smallest: the least weight that is not 0, the largest being 1; two where a step varies."""
    ends = [form.with_shift(s) for s in (form.shifts[0], form.shifts[-1])]
    smallest = sorted({1 / each.top for each in ends}, reverse=True)
    products = 2 if form.is_wide else 1
    return {
        "name": form.name,
        "bits": form.bits,
        "of": "softmax",
        "smallest": smallest,
        "step": "uniform" if not (form.is_log2 or form.is_twin) else _step(form),
        "kernels": {"cpu": [f"{KERNELS}, {products} product{'s' * (products > 1)} of bytes"]},
        "not_on": {name: why for name, why in NOT_HERE.items() if name in targets.TARGETS},
    }


def _step(form: SoftmaxFormat) -> str:
    if form.is_log2:
        return "powers of two, and 0"
    ratios = dict.fromkeys(f"2^{shift}" for shift in (form.shifts[0], form.shifts[-1]))
    return f"two, of ratio {' … '.join(ratios)}"


def softmax_cells(row: dict[str, Any]) -> list[str]:
    """The cells of the printed table."""
    smallest = " … ".join(f"1/{round(1 / v)}" for v in row["smallest"])
    return [row["name"], str(row["bits"]), smallest, row["step"], "; ".join(row["kernels"]["cpu"])]
