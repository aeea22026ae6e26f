# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments in, one call, rendering out."""

import logging
import math
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from qcompile.cli_analyze import analyze
from qcompile.cli_commands import (
    DATA,
    OpLibraries,
    bench,
    compare,
    excluding,
    inspect,
    list_formats,
    list_passes,
    list_targets,
    show_artifact,
    show_plan,
    show_reasons,
    use_libraries,
)
from qcompile.cli_stop import Stop
from qcompile.compile import Limits, compile
from qcompile.errors import InputError, QcompileError
from qcompile.images import ImageFlags
from qcompile.memory import parse_size
from qcompile.progress import progress_of
from qcompile.recipe import CALIBRATION_METHODS, TUNING_WORDS, WEIGHT_ROUNDINGS, Recipe
from qcompile.user_function import load_metric
from qcompile.version import VERSION

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
COMMANDS = ("compile", "inspect", "compare", "bench", "analyze", "targets", "formats", "passes")


@app.command("compile")
def compile_command(
    model: Annotated[Path, typer.Argument(help="a float ONNX model")],
    target: Annotated[str, typer.Option(help="see `qcompile targets`")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder; default MODEL.qc")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an artifact that exists")] = False,
    preset: Annotated[str | None, typer.Option(help="w<1-8>a<2-8|16|4-dynamic|8-dynamic>")] = None,
    edge_bits: Annotated[int | None, typer.Option(help="first and last weights' (8)")] = None,
    weight_format: Annotated[str | None, typer.Option(help="see `qcompile formats`")] = None,
    activation_format: Annotated[str | None, typer.Option(help="of static activations")] = None,
    block_size: Annotated[int | None, typer.Option(help="weights that share a scale")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML or TOML")] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help=f"{DATA}, or images:DIR for pictures")
    ] = None,
    calibration_cache: Annotated[
        Path | None, typer.Option(help="FILE.npz: read where it exists, else written")
    ] = None,
    qdq_out: Annotated[Path | None, typer.Option(help="FILE.onnx, in ONNX's own types")] = None,
    num_calibration_samples: Annotated[int | None, typer.Option(help="at most (256)")] = None,
    calibration_select: Annotated[int | None, typer.Option(help="of them the N best")] = None,
    calibration_groups: Annotated[
        str | None, typer.Option(help="INPUT whose values group them, as a time step does")
    ] = None,
    timestep_input: Annotated[
        str | None, typer.Option(help="INPUT that holds a time step, which scales depend on")
    ] = None,
    timestep_buckets: Annotated[
        int | None, typer.Option(help="of time steps that share their scales, at most (16)")
    ] = None,
    input_range: Annotated[
        str | None, typer.Option(help="LOW:HIGH, for static activations without data")
    ] = None,
    calibration_method: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(CALIBRATION_METHODS)} (minmax; below 8 bits mse)"),
    ] = None,
    calibration_percentile: Annotated[
        float | None, typer.Option(help="of the method percentile (99.99)")
    ] = None,
    activation_polish: Annotated[
        str | None, typer.Option(help="lognp: levels of narrow static activations (none)")
    ] = None,
    softmax_format: Annotated[
        str | None, typer.Option(help="of attention of static codes: log2_4, twin4, … (uint8)")
    ] = None,
    weight_rounding: Annotated[
        str | None, typer.Option(help=f"{', '.join(WEIGHT_ROUNDINGS)} (descent with data)")
    ] = None,
    rotation: Annotated[
        str | None,
        typer.Option(help="auto (where it lowers the error on the data), learned or off"),
    ] = None,
    sparsity: Annotated[str | None, typer.Option(help="2:4, of narrow products (none)")] = None,
    low_rank: Annotated[
        float | None,
        typer.Option(help="rank of what is added to narrow products, a share of their size (0)"),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(help="quick: layer by layer; default, best: the whole network is tuned, too"),
    ] = None,
    tuning: Annotated[
        str | None, typer.Option(help=f"{', '.join(TUNING_WORDS)}: tried beside plain tuning")
    ] = None,
    image_mean: Annotated[str | None, typer.Option(help="1 or 3 numbers (0)")] = None,
    image_std: Annotated[str | None, typer.Option(help="1 or 3 numbers (1)")] = None,
    image_scale: Annotated[float | None, typer.Option(help="of pixels, first (1/255)")] = None,
    image_size: Annotated[str | None, typer.Option(help="HxW (the model's)")] = None,
    image_layout: Annotated[str | None, typer.Option(help="nchw or nhwc (the model's)")] = None,
    image_channels: Annotated[str | None, typer.Option(help="rgb or bgr (rgb)")] = None,
    nodes_to_exclude: Annotated[
        str | None, typer.Option(help="REGEX of node names kept float")
    ] = None,
    op_types_to_quantize: Annotated[
        str | None, typer.Option(help="Conv,MatMul,Gemm,Gather,LSTM,GRU,RNN")
    ] = None,
    integer_only: Annotated[
        bool, typer.Option("--integer-only", help="no float between quantizer and output")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="samples a call of t4 and tvm-cpu (the model's, or 1)")
    ] = None,
    min_sqnr: Annotated[float | None, typer.Option(help="fail below this many dB")] = None,
    metric: Annotated[
        str | None, typer.Option(help="MODULE:FUNCTION of a session; more is better")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="fail if the metric drops more")] = None,
    op_library: OpLibraries = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="4GB, 512MiB: most of its own memory, RssAnon (half the machine)"),
    ] = None,
    workers: Annotated[int, typer.Option(help="processes that find codes of weights at once")] = 1,
    seed: Annotated[int | None, typer.Option(help="of random inputs")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the plan, write nothing")
    ] = False,
    why: Annotated[
        str | None, typer.Option(help="NODE or VALUE: what is decided for it, write nothing")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the manifest on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
    verbose: Annotated[bool, typer.Option("--verbose")] = False,
) -> None:
    """Compile a float ONNX model into a low-bit artifact."""
    use_libraries(op_library)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    chosen = (Recipe.read(recipe) if recipe is not None else Recipe()).with_flags(
        preset=preset,
        edge_bits=edge_bits,
        weight_format=weight_format,
        activation_format=activation_format,
        block_size=block_size,
        num_calibration_samples=num_calibration_samples,
        calibration_select=calibration_select,
        calibration_groups=calibration_groups,
        timestep_input=timestep_input,
        timestep_buckets=timestep_buckets,
        input_range=input_range,
        calibration_method=calibration_method,
        calibration_percentile=calibration_percentile,
        weight_rounding=weight_rounding,
        activation_polish=activation_polish,
        softmax_format=softmax_format,
        sparsity=sparsity,
        low_rank=low_rank,
        rotation=rotation,
        effort=effort,
        tuning=tuning,
        op_types_to_quantize=None
        if op_types_to_quantize is None
        else tuple(op_types_to_quantize.split(",")),
        integer_only=integer_only or None,
        batch=batch,
        seed=seed,
    )
    chosen = chosen.with_flags(rules=(*chosen.rules, *excluding(nodes_to_exclude)))
    for flag, limit in (("--min-sqnr", min_sqnr), ("--max-drop", max_drop)):
        if limit is not None and math.isnan(limit):
            raise InputError(f"{flag} nan: a number is needed")
    images = ImageFlags(
        mean=image_mean,
        std=image_std,
        scale=image_scale,
        size=image_size,
        layout=image_layout,
        channels=image_channels,
    )
    data = images.source(calibration_data)
    if why is not None:
        show_reasons(model, target, chosen, data, why, as_json=as_json)
    elif dry_run:
        show_plan(model, target, chosen, data, as_json=as_json)
    else:
        artifact = compile(
            model,
            target,
            output,
            recipe=chosen,
            calibration_data=data,
            force=force,
            limits=Limits(
                min_sqnr=min_sqnr,
                max_drop=max_drop,
                max_memory=None if max_memory is None else parse_size(max_memory),
                workers=workers,
            ),
            metric=None if metric is None else load_metric(metric),
            calibration_cache=calibration_cache,
            qdq_out=qdq_out,
            progress=progress_of(quiet=quiet, verbose=verbose),
        )
        show_artifact(artifact, as_json=as_json, quiet=quiet)


for _name, _command in (
    *(("inspect", inspect), ("compare", compare), ("bench", bench), ("analyze", analyze)),
    *(("targets", list_targets), ("formats", list_formats), ("passes", list_passes)),
):
    app.command(_name)(_command)


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
    stop = Stop()
    try:
        _run(arguments, stop)
    finally:
        stop.restore()


def _run(arguments: list[str], stop: Stop) -> NoReturn:
    code = 0
    try:
        code = app(arguments, standalone_mode=False) or 0
        sys.stdout.flush()
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except QcompileError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail(f"{stop.word}; nothing was written", 128 + stop.number)
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
