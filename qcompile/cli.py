# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments in, one call, rendering out."""

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from qcompile import report as render
from qcompile import targets
from qcompile.artifact import Artifact, plain
from qcompile.compare import bench as run_bench
from qcompile.compare import compare as run_compare
from qcompile.compile import Limits, compile, plan_only
from qcompile.errors import QcompileError
from qcompile.passes import LOWER_CPU, NORMALISE, TRANSFORM
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe, Rule
from qcompile.version import VERSION

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
COMMANDS = ("compile", "inspect", "compare", "bench", "targets", "formats", "passes")


def _console() -> Console:
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)


def _rules(exclude: str | None) -> tuple[Rule, ...]:
    return (
        () if exclude is None else (Rule(match=exclude, exclude=True, source="--nodes-to-exclude"),)
    )


@app.command("compile")
def compile_command(
    model: Annotated[Path, typer.Argument(help="a float ONNX model")],
    target: Annotated[str, typer.Option(help="see `qcompile targets`")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder; default MODEL.qc")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an artifact that exists")] = False,
    preset: Annotated[str | None, typer.Option(help="w<1-8>a<2-8|16|4-dynamic|8-dynamic>")] = None,
    edge_bits: Annotated[
        int | None, typer.Option(help="bits of first and last weights (8)")
    ] = None,
    weight_format: Annotated[str | None, typer.Option(help="see `qcompile formats`")] = None,
    activation_format: Annotated[str | None, typer.Option(help="of static activations")] = None,
    block_size: Annotated[int | None, typer.Option(help="weights that share a scale")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML or TOML")] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="FILE.npz, DIR or MODULE:FUNCTION")
    ] = None,
    num_calibration_samples: Annotated[int | None, typer.Option(help="at most (256)")] = None,
    calibration_method: Annotated[str | None, typer.Option(help="minmax or mse")] = None,
    nodes_to_exclude: Annotated[
        str | None, typer.Option(help="REGEX of node names kept float")
    ] = None,
    op_types_to_quantize: Annotated[
        str | None, typer.Option(help="Conv,MatMul,Gemm,Gather")
    ] = None,
    min_sqnr: Annotated[float | None, typer.Option(help="fail below this many dB")] = None,
    seed: Annotated[int | None, typer.Option(help="of random inputs")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the plan, write nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the manifest on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
    verbose: Annotated[bool, typer.Option("--verbose")] = False,
) -> None:
    """Compile a float ONNX model into a low-bit artifact."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    chosen = (Recipe.read(recipe) if recipe is not None else Recipe()).with_flags(
        preset=preset,
        edge_bits=edge_bits,
        weight_format=weight_format,
        activation_format=activation_format,
        block_size=block_size,
        num_calibration_samples=num_calibration_samples,
        calibration_method=calibration_method,
        op_types_to_quantize=None
        if op_types_to_quantize is None
        else tuple(op_types_to_quantize.split(",")),
        seed=seed,
    )
    chosen = chosen.with_flags(rules=(*chosen.rules, *_rules(nodes_to_exclude)))
    console = _console()
    if dry_run:
        _show_plan(model, target, chosen, calibration_data, as_json=as_json)
        return
    artifact = compile(
        model,
        target,
        output,
        recipe=chosen,
        calibration_data=calibration_data,
        force=force,
        limits=Limits(min_sqnr=min_sqnr),
    )
    if as_json:
        _print_json({"folder": str(artifact.folder)} | _sections(artifact))
    elif not quiet:
        render.report(artifact, console)


def _show_plan(
    model: Path, target: str, recipe: Recipe, data: str | None, *, as_json: bool
) -> None:
    plan, normalised = plan_only(model, target, recipe, data)
    if as_json:
        _print_json(render.planned(plan, targets.get(target), normalised))
    else:
        render.dry_run(plan, targets.get(target), normalised, _console())


def _sections(artifact: Artifact) -> dict[str, Any]:
    return {"content": artifact.content, "measured": artifact.measured}


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(plain(data)))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="an artifact or an .onnx file")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Formats, bits, sizes, kernels, coverage, and every float fallback with its reason."""
    if not path.is_dir():
        _show_plan(path, "cpu", Recipe(), None, as_json=as_json)
    elif as_json:
        _print_json(_sections(Artifact.read(path)))
    else:
        render.inspect_artifact(Artifact.read(path), _console())


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="the reference: .onnx file or artifact")],
    b: Annotated[Path, typer.Argument(help=".onnx file or artifact")],
    data: Annotated[str, typer.Option(help="FILE.npz, DIR or MODULE:FUNCTION")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Outputs side by side: SQNR, cosine, top-1 agreement, worst nodes."""
    result = run_compare(a, b, data)
    if as_json:
        _print_json(asdict(result))
    else:
        render.comparison(result, _console())


@app.command()
def bench(
    path: Annotated[Path, typer.Argument(help=".onnx file or artifact")],
    vs: Annotated[Path | None, typer.Option("--vs", help="measured interleaved")] = None,
    threads: Annotated[int, typer.Option(help="of both")] = 1,
    data: Annotated[
        str | None, typer.Option(help="FILE.npz, DIR or MODULE:FUNCTION; default random")
    ] = None,
) -> None:
    """Time of one input; with --vs the ratio of the two, interleaved in one run."""
    found = run_bench(path, vs, threads, data)
    print(
        f"{path}: {found['compiled_ms']:.3f} ms, {threads} threads, median of {found['runs']} runs"
    )
    if vs is not None:
        print(f"{vs}: {found['float_ms']:.3f} ms; {path} runs at {found['ratio']:.2f}× its speed")


@app.command("targets")
def targets_command() -> None:
    """What this build can compile for."""
    rows = render.table("target", "")
    for t in targets.TARGETS.values():
        rows.add_row(t.name, t.summary)
    _console().print(rows)


@app.command()
def formats() -> None:
    """Every number format."""
    render.format_rows(_console())


@app.command()
def passes() -> None:
    """Every pass, in its order."""
    empty = Work(Plan("", "", {}), Stats(), Recipe())
    rows = render.table("stage", "pass", "")
    for stage, made in (
        ("normalise", NORMALISE()),
        ("transform", TRANSFORM(empty)),
        ("lower", LOWER_CPU()),
    ):
        for each in made:
            text = sys.modules[type(each).__module__].__doc__ or ""
            rows.add_row(
                stage, getattr(each, "name", type(each).__name__), text.strip().splitlines()[0]
            )
    _console().print(rows)


def _arguments(argv: list[str]) -> list[str]:
    """`qcompile MODEL …` means `qcompile compile MODEL …`; snake_case flags are accepted."""
    out = []
    for word in argv:
        flag, equals, value = word.partition("=")
        out.append(flag.replace("_", "-") + equals + value if word.startswith("--") else word)
    if out and out[0] not in COMMANDS and out[0] not in ("--help", "--version"):
        out.insert(0, "compile")
    return out


def main() -> None:
    """The entry point: exit codes of architecture §5."""
    arguments = _arguments(sys.argv[1:]) or ["--help"]
    if arguments[:1] == ["--version"]:
        print(f"qcompile {VERSION}")
        return
    code = 0
    try:
        code = app(arguments, standalone_mode=False) or 0
        sys.stdout.flush()
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except QcompileError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; nothing was written", 130)
    except MemoryError:
        _fail("out of memory; nothing was written", 2)
    except (BrokenPipeError, SystemExit):
        # The reader of stdout went away, as `| head` does; rich and typer exit of themselves then.
        _drop_output()
    except Exception as error:
        show = getattr(error, "format_message", None)
        if callable(show):  # a usage error of the command line
            _fail(f"{show()} (see qcompile --help)", 2)
        logging.getLogger("qcompile").exception("a bug of qcompile")
        _fail(f"qcompile failed, which is a bug: {type(error).__name__}: {error}", 1)
    sys.exit(code)


def _drop_output() -> None:
    """Nothing that is still buffered fails when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
