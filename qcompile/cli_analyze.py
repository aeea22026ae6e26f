# SPDX-License-Identifier: Apache-2.0
"""The command `analyze`."""

from pathlib import Path
from typing import Annotated

import typer

from qcompile.analysis import analyze as run_analysis
from qcompile.analysis import splits
from qcompile.cli_commands import (
    DATA,
    AsJson,
    OpLibraries,
    console,
    print_json,
    use_libraries,
)
from qcompile.report_analysis import render_analysis


def analyze(
    model: Annotated[Path, typer.Argument(help="a float ONNX model")],
    calibration_data: Annotated[
        str | None, typer.Option(help=f"{DATA}: inputs of products are analyzed, too")
    ] = None,
    num_calibration_samples: Annotated[int, typer.Option(help="at most")] = 64,
    op_library: OpLibraries = None,
    as_json: AsJson = False,
) -> None:
    """How weights (and inputs) are spread, and what every number format loses on them."""
    use_libraries(op_library)
    found = run_analysis(model, calibration_data, num_calibration_samples)
    if as_json:
        print_json(
            {
                "model": str(model),
                "tensors": [each.as_dict() for each in found],
                "float_splits_of_training": splits(),
            }
        )
    else:
        render_analysis(found, console())
