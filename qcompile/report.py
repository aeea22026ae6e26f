# SPDX-License-Identifier: Apache-2.0
"""report: what was done, as plain tables; every figure here was measured on the artifact."""

from collections import Counter
from typing import Any

import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from qcompile.artifact import Artifact
from qcompile.bodies import nodes_of
from qcompile.compare import Comparison
from qcompile.formats import scale_format
from qcompile.imported_plan import AS_THE_MODEL_SAYS
from qcompile.layouts.scales import scale_bytes
from qcompile.node_specs import request_of
from qcompile.plan import NodePlan, Plan
from qcompile.report_network import kernel_rows, network_lines
from qcompile.report_rotation import COLUMNS, rotation_rows
from qcompile.targets.target import Request, Target


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """A plain table: no colours, no box, whole words."""
    made = Table(box=None, pad_edge=False, show_edge=False, show_header=any(columns))
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i in right else "left", overflow="fold")
    return made


def size(count: float) -> str:
    """Bytes as kB.

    >>> size(274537)
    '274.5 kB'
    """
    return f"{count / 1000:,.1f} kB"


def report(artifact: Artifact, console: Console) -> None:
    """The report of one compilation."""
    content, measured = artifact.content, artifact.measured
    before, after = content["source"]["bytes"], artifact.model_bytes
    rows = table("", "")
    rows.add_row("artifact", str(artifact.folder))
    rows.add_row("target, preset", f"{content['target']}, {content['preset']}")
    rows.add_row("size", f"{size(before)} → {size(after)} ({before / max(after, 1):.2f}× smaller)")
    rows.add_row("coverage", coverage_line(content))
    network = content.get("network")
    for name, text in [] if network is None else network_lines(network):
        rows.add_row(name, text)
    inputs = 1 if network is None else int(network["batch"])
    for name, text in _measured_lines(measured, _original(content), inputs):
        rows.add_row(name, text)
    console.print(rows)
    if network is not None and network["device"] == "cuda":
        _print_kernels(network, console)
    print_rotations(content.get("rotations", []), console)
    for note in content["notes"]:
        console.print(f"note: {note}")
    for warning in warnings(artifact):
        console.print(f"WARNING: {warning}")
    _print_floats(content, console)


def print_rotations(found: list[dict[str, Any]], console: Console) -> None:
    """A table of the edges, where there are any."""
    if not found:
        return
    rows = table(*COLUMNS, right=(6,))
    for row in rotation_rows(found):
        rows.add_row(*row)
    console.print(rows)


def _original(content: dict[str, Any]) -> str:
    """What the user's model is called; one that comes in codes is no float model."""
    return "given" if content["preset"] == AS_THE_MODEL_SAYS else "float"


def _print_kernels(network: dict[str, Any], console: Console) -> None:
    columns, found = kernel_rows(network)
    rows = table(*columns, right=tuple(range(3, len(columns) - 1)))
    for row in found:
        rows.add_row(*row)
    console.print(rows)


def _measured_lines(measured: dict[str, Any], original: str, inputs: int) -> list[tuple[str, str]]:
    lines = []
    if measured.get("sqnr_db") is not None:
        where = "random inputs" if measured.get("synthetic_data") else "calibration data"
        lines.append(
            (
                "SQNR",
                f"{float(measured['sqnr_db']):.1f} dB of the outputs against the {original} model "
                f"({where})",
            )
        )
    if measured.get("worst_nodes"):
        name, value = measured["worst_nodes"][0]
        lines.append(("worst node", f"{name} ({float(value):.1f} dB)"))
    if measured.get("metric"):
        m = measured["metric"]
        lines.append(("metric", f"{m['float']:.4g} → {m['compiled']:.4g}"))
    if measured.get("speed"):
        s = measured["speed"]
        text = (
            f"{s['float_ms']:.3f} ms → {s['compiled_ms']:.3f} ms "
            f"({s['ratio']:.2f}× the {original} model's speed, 1 thread)"
        )
        lines.append((f"time of {'one input' if inputs == 1 else f'{inputs} inputs'}", text))
    checks = measured.get("checks", [])
    if checks:
        lines.append(
            ("verified", ", ".join(dict.fromkeys(c["rung"].split(":")[0] for c in checks)))
        )
    for skipped in measured.get("skipped", []):
        lines.append(("not verified", skipped))
    return lines


def coverage_line(content: dict[str, Any]) -> str:
    """Share of the weights that run from packed codes, and at which formats."""
    counts: Counter[str] = Counter()
    seen = set()
    for row in content["nodes"]:
        if row["weight"] is not None and row["weight_tensor"] not in seen:
            seen.add(row["weight_tensor"])
            counts[row["weight"].split("/")[0]] += row["elements"]
    total = sum(counts.values())
    parts = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in counts.most_common())
    return f"{100 * content['coverage']:.1f} % of the weights run from packed codes ({parts})"


def warnings(artifact: Artifact) -> list[str]:
    """What the user would not want to find out later."""
    found, original = [], _original(artifact.content)
    speed = artifact.measured.get("speed") or {}
    if speed and speed["ratio"] < 1:
        found.append(
            f"the compiled model is slower than the {original} one here ({speed['ratio']:.2f}×)"
        )
    if artifact.model_bytes >= artifact.content["source"]["bytes"]:
        found.append(f"the compiled model is not smaller than the {original} one")
    if artifact.measured.get("synthetic_data") and not artifact.measured.get("metric"):
        found.append(
            "accuracy was not measured: without --calibration-data the check ran on random inputs"
        )
    return found


def _print_floats(content: dict[str, Any], console: Console) -> None:
    left = [(r["op"], r["node"], r["reason"]) for r in content["nodes"] if r["weight"] is None]
    left += [("", node, reason) for node, reason in content["float_nodes"].items()]
    if not left:
        return
    console.print(f"{len(left)} nodes stay in float:")
    rows = table("op", "node", "reason")
    for row in left:
        rows.add_row(*row)
    console.print(rows)


def inspect_artifact(artifact: Artifact, facts: dict[str, Any], console: Console) -> None:
    """`qcompile inspect` of an artifact: every weighted node, then the parts and the report."""
    columns = ("node", "op", "weight", "activation", "kernel", "layout", "weights", "bytes")
    rows = table(*columns, right=(6, 7))
    for r in artifact.content["nodes"]:
        if r["weight"] is not None:
            how = (r["weight"], r["activation"] or "f32", r["kernel"], r["layout"] or "")
            held = f"{r['packed_bytes']:,}" if "packed_bytes" in r else ""
            rows.add_row(r["node"], r["op"], *how, f"{r['elements']:,}", held)
    console.print(rows)
    _print_softmax(artifact.content.get("softmax_formats", {}), console)
    network = artifact.content.get("network")
    if network is not None and network["device"] != "cuda":  # the report has those of a GPU
        _print_kernels(network, console)
    model_lines(facts, console)
    report(artifact, console)


def _print_softmax(formats: dict[str, str], console: Console) -> None:
    """The attentions whose weights are not uint8."""
    if not formats:
        return
    rows = table("attention", "softmax")
    for row in formats.items():
        rows.add_row(*row)
    console.print(rows)


def model_lines(facts: dict[str, Any], console: Console) -> None:
    """The parts of a model in bytes, its ops, and the weights of its recurrent ops."""
    rows = table("", "")
    rows.add_row("bytes", ", ".join(f"{name} {held:,}" for name, held in facts["bytes"].items()))
    if facts.get("bits_per_weight") is not None:
        text = f"{facts['bits_per_weight']:.2f}, with the scales and padding of packed tensors"
        rows.add_row("bits per weight", text)
    if facts.get("isa") is not None:
        rows.add_row("instructions", f"{facts['isa']} on this machine")
    if facts["ops"]:
        rows.add_row("ops", ", ".join(f"{count} {name}" for name, count in facts["ops"].items()))
    for r in facts["recurrent"]:
        text = f"{r['op']} {r['node']}: {r['elements']:,} weights in {r['bytes']:,} bytes"
        rows.add_row("recurrent", text)
    console.print(rows)


def planned_rows(plan: Plan, target: Target, model: ir.Model) -> list[dict[str, Any]]:
    """What would happen to every weighted node: format and kernel, or the reason for float."""
    nodes = {n.name: n for n in nodes_of(model)}
    rows = []
    for p in plan.nodes.values():
        row: dict[str, Any] = {"node": p.node, "op": p.op_type, "decided_by": p.rule}
        if p.weight is None:
            held = 4 * p.num_elements
            rows.append(row | {"weight": None, "activation": None, "kernel": None, "bytes": held})
            rows[-1]["reason"] = p.reason
            continue
        request = request_of(nodes[p.node], p.weight, p.activation)
        row |= {"weight": str(p.weight), "kernel": target.kernel(request), "reason": None}
        row["activation"] = None if p.activation is None else str(p.activation)
        rows.append(row | {"bytes": code_bytes(p, request)})
    return rows


def planned(plan: Plan, target: Target, model: ir.Model) -> dict[str, Any]:
    """`--dry-run --json`."""
    return {
        "target": plan.target,
        "preset": plan.preset,
        "coverage": plan.coverage(),
        "notes": list(plan.notes),
        "nodes": planned_rows(plan, target, model),
        "float_nodes": dict(plan.reasons),
        "rotations": [row.as_dict() for row in plan.rotations],
        "softmax_formats": {node: found.text for node, found in plan.softmax.items()},
    }


def dry_run(plan: Plan, target: Target, model: ir.Model, console: Console) -> None:
    """`--dry-run`: per node the format and kernel or the reason for float, and the coverage."""
    console.print(f"target {target.name}, preset {plan.preset}")
    rows = table("node", "op", "weight", "activation", "kernel", "bytes", "decided by", right=(5,))
    for r in planned_rows(plan, target, model):
        how = (r["weight"], r["activation"] or "f32", r["kernel"])
        if r["weight"] is None:
            how = ("float", "", r["reason"])
        rows.add_row(r["node"], r["op"], *how, f"{r['bytes']:,}", r["decided_by"])
    console.print(rows)
    console.print(f"coverage {100 * plan.coverage():.1f} %")
    print_rotations([row.as_dict() for row in plan.rotations], console)
    _print_softmax({node: found.text for node, found in plan.softmax.items()}, console)
    for note in plan.notes:
        console.print(f"note: {note}")
    for node, reason in plan.reasons.items():
        console.print(f"float: {node}: {reason}")


def code_bytes(plan: NodePlan, request: Request) -> int:
    """Bytes of codes and scales, without the padding of a layout."""
    assert plan.weight is not None
    n = plan.num_elements // max(request.K, 1)
    per_row = -(-request.K // plan.weight.block_size) if plan.weight.granularity == "block" else 1
    stored_as = scale_format(plan.weight.scale_format).stored_as
    scale = scale_bytes(stored_as) + (not plan.weight.is_symmetric)
    return -(-plan.num_elements * plan.weight.bits // 8) + n * per_row * scale


def comparison(result: Comparison, console: Console) -> None:
    """`qcompile compare`."""
    rows = table("output", "SQNR dB", "cosine", "top-1 agreement", right=(1, 2, 3))
    for r in result.outputs:
        rows.add_row(r.name, f"{r.sqnr_db:.2f}", f"{r.cosine:.6f}", f"{100 * r.top1:.2f} %")
    console.print(rows)
    if result.worst_nodes:
        worst = table("worst nodes", "SQNR dB", right=(1,))
        for name, value in result.worst_nodes:
            worst.add_row(name, f"{value:.2f}")
        console.print(worst)
    console.print(f"{result.num_samples} samples")
