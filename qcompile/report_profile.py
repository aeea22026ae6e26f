# SPDX-License-Identifier: Apache-2.0
"""report_profile: the time per node as a plain table, then its sums by op type."""

from rich.console import Console

from qcompile.profile import NodeTime, Profile
from qcompile.report import size, table

TOP = 20


def render_profile(profile: Profile, console: Console) -> None:
    """The slowest nodes, the sums, and what the limits are."""
    rows = table(
        *("op", "node", "ms", "share", "products", "weights", "activations", "of the limit"),
        right=(2, 3, 4, 5, 6, 7),
    )
    for node in profile.nodes[:TOP]:
        rows.add_row(*_row(node))
    console.print(rows)
    if (left := len(profile.nodes) - TOP) > 0:
        console.print(f"and {left} more (--json has all, and their shapes)")
    sums = table("op", "nodes", "ms", "share", "products", right=(1, 2, 3, 4))
    for row in profile.by_op():
        count = f"{row['products']:,}" if row["products"] else ""
        sums.add_row(row["op"], str(row["nodes"]), f"{row['ms']:.3f}", f"{row['share']:.1%}", count)
    console.print()
    console.print(sums)
    console.print(_limits(profile))


def _row(node: NodeTime) -> tuple[str, ...]:
    return (
        node.op,
        node.name,
        f"{node.ms:.3f}",
        f"{node.share:.1%}",
        f"{node.products:,}" if node.products else "",
        size(node.weight_bytes),
        size(node.activation_bytes),
        "" if node.fraction is None else f"{node.fraction:.0%}",
    )


def _limits(profile: Profile) -> str:
    limits = profile.limits
    parts = [f"memory {limits.bytes_per_second / 1e9:.1f} GB/s"]
    speeds = (("8-bit", limits.wide_per_second), ("4-bit", limits.narrow_per_second))
    for name, speed in speeds:
        if speed is not None:
            parts.append(f"{name} weights {speed / 1e9:.1f} products/ns (the best QMatMul here)")
    return f"limits, {profile.threads} threads: {', '.join(parts)}; median of {profile.runs} runs"
