# SPDX-License-Identifier: Apache-2.0
"""`qcompile analyze` as tables: a line a tensor with a picture of its values, then the formats."""

from math import inf, isfinite

from rich.console import Console
from rich.table import Table

from qcompile.analysis import CANDIDATES, FormatError, TensorFacts, splits
from qcompile.report import table

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = ("shape", "crest", "of 32", "of 16", "kurtosis", "β", "coded", "−4 … 4 rms")


def picture(histogram: tuple[int, ...]) -> str:
    """A bar a bin, on a scale of square roots, which shows tails; a bin with one value has a bar.

    >>> picture((0, 1, 16, 64, 4))
    ' ▁▄█▂'
    """
    most = max(histogram)
    if not most:
        return _BARS[0] * len(histogram)
    high = [round(8 * (count / most) ** 0.5) for count in histogram]
    return "".join(_BARS[max(h, int(c > 0))] for h, c in zip(high, histogram, strict=True))


def render_analysis(found: list[TensorFacts], console: Console) -> None:
    """Every tensor, then every format over all weights and over all inputs."""
    for kind, title in (("weight", "weights"), ("input", "inputs of products")):
        tensors = [each for each in found if each.kind == kind]
        if not tensors:
            continue
        rows = table(title, *_COLUMNS, "best of 4 bits", "best of 8 bits", right=(*range(1, 8),))
        for each in tensors:
            rows.add_row(*_tensor_row(each))
        console.print(rows)
        console.print("")
        console.print(_format_table(tensors, title))
        console.print("")
    law = ", ".join(f"{bits} bits {name}" for bits, name in splits().items())
    console.print(f"floats that training does best with (Sun et al. 2025): {law}")


def _tensor_row(facts: TensorFacts) -> list[str]:
    spread = facts.distribution
    shape = "×".join(map(str, facts.shape))
    crests = [_number(v, 2) for v in (spread.crest, spread.crest_32, spread.crest_16)]
    row = [facts.name, shape, *crests, _number(spread.kurtosis, 2), _number(spread.beta, 2)]
    row += [_number(spread.coded_bits, 2, " bits"), picture(spread.histogram)]
    for bits in (4, 8):
        best = facts.best(bits)
        row.append("" if best is None else f"{best.format} {_number(best.searched_db, 1)} dB")
    return row


def _format_table(tensors: list[TensorFacts], title: str) -> Table:
    columns = ("bits", "predicted dB", "extremes dB", "searched dB", "best of its bits")
    rows = table(f"means over {title}", *columns, right=(1, 2, 3, 4, 5))
    winners = [best.format for each in tensors for bits in (4, 8) if (best := each.best(bits))]
    for name in CANDIDATES:
        errors = [e for each in tensors for e in each.formats if e.format == name]
        if errors:
            size = sum(e.bits_per_weight for e in errors) / len(errors)
            figures = [_mean(errors, part) for part in ("predicted", "extremes", "searched")]
            count = winners.count(name)
            rows.add_row(name, f"{size:.2f}", *figures, f"{count}" if count else "")
    return rows


def _mean(errors: list[FormatError], part: str) -> str:
    """Of the finite figures."""
    found = [getattr(e, f"{part}_db") for e in errors]
    kept = [v for v in found if v is not None and isfinite(v)]
    return _number(sum(kept) / len(kept) if kept else None, 1)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    if value is None:
        return ""
    return "exact" if value == inf else f"{value:.{digits}f}{unit}"
