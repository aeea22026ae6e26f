# SPDX-License-Identifier: Apache-2.0
"""The commands beside `compile`: inspect, compare, bench, and the lists of what there is."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qcompile import report as render
from qcompile import targets
from qcompile.artifact import Artifact, plain
from qcompile.compare import bench as run_bench
from qcompile.compare import compare as run_compare
from qcompile.compile import plan_only
from qcompile.errors import InputError
from qcompile.format_listing import listed, print_listing
from qcompile.inspection import artifact_facts, model_facts
from qcompile.op_libraries import use_op_library
from qcompile.passes import LOWER_CPU, LOWER_ORT, NORMALISE, TRANSFORM
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.profile import profile as run_profile
from qcompile.reasons import why
from qcompile.recipe import Recipe, Rule
from qcompile.report_profile import render_profile
from qcompile.softmax_listing import softmax_listed

DATA = "FILE.npz, FILE.npy, DIR or MODULE:FUNCTION"
AsJson = Annotated[bool, typer.Option("--json")]
OpLibraries = Annotated[
    list[Path] | None,
    typer.Option("--op-library", help="has custom ops of the model, and is run; once for each"),
]
Trust = Annotated[
    bool, typer.Option("--trust-library", help="load the library of a tvm-cpu or t4 artifact")
]


def excluding(regex: str | None) -> tuple[Rule, ...]:
    """The rule of --nodes-to-exclude."""
    return () if regex is None else (Rule(match=regex, exclude=True, source="--nodes-to-exclude"),)


def console() -> Console:
    """Standard output; wide where no terminal cuts lines."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """One line on stdout."""
    print(json.dumps(plain(data)))


def show_artifact(artifact: Artifact, *, as_json: bool, quiet: bool) -> None:
    """The result of `compile`."""
    if as_json:
        print_json({"folder": str(artifact.folder)} | _sections(artifact))
    elif not quiet:
        render.report(artifact, console())


def show_plan(model: Path, target: str, recipe: Recipe, data: Any, *, as_json: bool) -> None:
    """`--dry-run`."""
    plan, normalised = plan_only(model, target, recipe, data)
    if as_json:
        print_json(render.planned(plan, targets.get(target), normalised))
    else:
        render.dry_run(plan, targets.get(target), normalised, console())


def show_reasons(
    model: Path, target: str, recipe: Recipe, data: Any, name: str, *, as_json: bool
) -> None:
    """`--why`: a line for every fact."""
    plan, normalised = plan_only(model, target, recipe, data)
    found = why(plan, normalised, recipe, targets.get(target), name)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if isinstance(value, dict):
            for part, text in value.items():
                print(f"{key}: {part}: {text}")
        elif value not in (None, []):
            print(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _sections(artifact: Artifact) -> dict[str, Any]:
    return {"content": artifact.content, "measured": artifact.measured}


def use_libraries(paths: list[Path] | None) -> None:
    """Register what --op-library names."""
    for path in paths or ():
        use_op_library(path)


def inspect(
    path: Annotated[Path, typer.Argument(help="an artifact or an .onnx file")],
    target: Annotated[str, typer.Option(help="of an .onnx file's plan")] = "cpu",
    op_library: OpLibraries = None,
    as_json: AsJson = False,
) -> None:
    """Formats, bits, sizes, kernels, coverage, and every float fallback with its reason."""
    use_libraries(op_library)
    if path.is_dir():
        artifact = Artifact.read(path)
        facts = artifact_facts(artifact)
        if as_json:
            print_json(_sections(artifact) | {"inspected": facts})
        else:
            render.inspect_artifact(artifact, facts, console())
        return
    plan, normalised = plan_only(path, target, Recipe())
    chosen, facts = targets.get(target), model_facts(path)
    if as_json:
        print_json(render.planned(plan, chosen, normalised) | {"inspected": facts})
    else:
        render.dry_run(plan, chosen, normalised, console())
        render.model_lines(facts, console())


def compare(
    a: Annotated[Path, typer.Argument(help="the reference: .onnx file or artifact")],
    b: Annotated[Path, typer.Argument(help=".onnx file or artifact")],
    data: Annotated[str, typer.Option(help=DATA)],
    num_samples: Annotated[int, typer.Option(help="at most")] = 64,
    op_library: OpLibraries = None,
    trust_library: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Outputs side by side: SQNR, cosine, top-1 agreement, worst nodes."""
    use_libraries(op_library)
    result = run_compare(a, b, data, num_samples, trust=trust_library)
    if as_json:
        print_json(asdict(result))
    else:
        render.comparison(result, console())


def bench(
    path: Annotated[Path, typer.Argument(help=".onnx file or artifact")],
    vs: Annotated[Path | None, typer.Option("--vs", help="measured interleaved")] = None,
    threads: Annotated[int, typer.Option(help="of both")] = 1,
    data: Annotated[str | None, typer.Option(help=f"{DATA}; default random")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="INPUT=1x3x224x224, once for each free input")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="of measuring (1)")] = None,
    op_library: OpLibraries = None,
    by_node: Annotated[
        bool, typer.Option("--profile", help="an artifact's time per node, and its limits")
    ] = False,
    trust_library: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Time of one run; with --vs the ratio of the two, interleaved in one run."""
    use_libraries(op_library)
    chosen = tuple(shape or ())
    if by_node:
        if vs is not None:
            raise InputError("--profile is of one artifact: leave out --vs or --profile")
        nodes = run_profile(path, threads, data, seconds, chosen, trust=trust_library)
        if as_json:
            print_json({"path": str(path)} | nodes.as_dict())
        else:
            render_profile(nodes, console())
        return
    found = run_bench(path, vs, threads, data, seconds, chosen, trust=trust_library)
    if as_json:
        print_json({"path": str(path), "vs": None if vs is None else str(vs)} | found)
        return
    shapes = ", ".join(
        f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in found["shapes"].items()
    )
    print(
        f"{path}: {found['compiled_ms']:.3f} ms, {threads} threads, median of {found['runs']} runs"
    )
    if vs is not None:
        low, high = found["ratio_interval"]
        print(
            f"{vs}: {found['float_ms']:.3f} ms; {path} runs at {found['ratio']:.2f}× its speed "
            f"(95 % interval {low:.2f} to {high:.2f})"
        )
    print(f"inputs: {shapes}")


def list_targets(as_json: AsJson = False) -> None:
    """What this build can compile for."""
    if as_json:
        print_json([{"name": t.name, "summary": t.summary} for t in targets.TARGETS.values()])
        return
    rows = render.table("target", "")
    for t in targets.TARGETS.values():
        rows.add_row(t.name, t.summary)
    console().print(rows)


def list_formats(as_json: AsJson = False) -> None:
    """Every number format."""
    if as_json:
        print_json(listed() + softmax_listed())
    else:
        print_listing(console())


def list_passes(as_json: AsJson = False) -> None:
    """Every pass, in its order."""
    empty = Work(Plan("", "", {}), Stats(), Recipe())
    stages = (
        *(("normalise", NORMALISE()), ("transform", TRANSFORM(empty))),
        *(("lower cpu", LOWER_CPU()), ("lower ort", LOWER_ORT())),
    )
    found = [
        {
            "stage": stage,
            "name": getattr(each, "name", type(each).__name__),
            "summary": _first_line(each),
        }
        for stage, made in stages
        for each in made
    ]
    if as_json:
        print_json(found)
        return
    rows = render.table("stage", "pass", "")
    for row in found:
        rows.add_row(*row.values())
    console().print(rows)


def _first_line(made: object) -> str:
    text = sys.modules[type(made).__module__].__doc__ or ""
    return text.strip().splitlines()[0]
