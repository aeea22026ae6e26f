# SPDX-License-Identifier: Apache-2.0
"""Running the passes of a stage: in order, on one model, with someone looking on."""

from collections.abc import Callable

import onnx_ir as ir

from qcompile.errors import QcompileError

Inspector = Callable[[str, str, ir.Model], None]  # (stage, pass, the model after it)


def run_passes(
    model: ir.Model,
    stage: str,
    passes: list[ir.passes.InPlacePass],
    inspect: Inspector | None = None,
) -> ir.Model:
    """The model after the passes. A pass that raises is named; `inspect` is called after each."""
    for each in passes:
        name = getattr(each, "name", type(each).__name__)
        try:
            each(model)
        except QcompileError:
            raise
        except Exception as error:
            raise QcompileError(f"pass {name} of stage {stage} failed: {error}") from error
        if inspect is not None:
            inspect(stage, name, model)
    return model
