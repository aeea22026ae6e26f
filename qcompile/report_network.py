# SPDX-License-Identifier: Apache-2.0
"""What the report and inspect say of a library: its parts, and its kernels one by one."""

from typing import Any

MICRO = 1e6


def network_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Device, batch and what the machine must have."""
    needs = []
    if facts["minimum_driver"] is not None:
        needs.append(f"a GPU from compute capability 7.5 on, driver {facts['minimum_driver']}")
    if facts["instructions"]:
        needs.append(f"a processor with {', '.join(facts['instructions'])}")
    lines = [
        ("library", f"{facts['library']} on {facts['device']}, {facts['batch']} samples a call"),
        ("needs", "; ".join(needs) or "nothing beside the files of its folder"),
    ]
    kernels = [row for row in facts["kernels"] if "registers" in row]
    if kernels:
        seconds = sum(row["roofline_seconds"] or 0 for row in kernels)
        spills = sum(row["spill_bytes"] for row in kernels)
        lines.append(
            (
                "kernels",
                f"{len(kernels)}, {spills} bytes spilled; no T4 can run them in less than "
                f"{seconds * MICRO:.1f} µs a call (roofline, not measured)",
            )
        )
    return lines


COLUMNS = ("kernel", "computes", "instruction", "blocks", "threads")
COLUMNS_OF_GPU = (*COLUMNS, "registers", "shared", "spilled", "occupancy", "roofline µs", "bound")


def kernel_rows(facts: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and a row a kernel: what ptxas says of it, and the roofline of its layer."""
    if not any("registers" in row for row in facts["kernels"]):
        return COLUMNS[:3], [
            (row["node"], ", ".join(row["computes"]), row["instruction"])
            for row in facts["kernels"]
        ]
    return COLUMNS_OF_GPU, [_gpu_row(row) for row in facts["kernels"]]


def _gpu_row(row: dict[str, Any]) -> tuple[str, ...]:
    roof = row["roofline_seconds"]
    counts = (row[k] for k in ("blocks", "threads", "registers", "shared_bytes", "spill_bytes"))
    return (
        *(row["name"], ", ".join(row["computes"]), row["instruction"]),
        *(f"{count:,}" for count in counts),
        *(f"{100 * row['occupancy']:.0f} %", "" if roof is None else f"{roof * MICRO:.2f}"),
        row["bound"],
    )
