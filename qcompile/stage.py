# SPDX-License-Identifier: Apache-2.0
"""Running the passes of a stage: in order, on one model and its bodies, with someone looking on."""

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir

from qcompile.bodies import compiled_graphs, opened
from qcompile.errors import InputError, QcompileError
from qcompile.graph import values

Inspector = Callable[[str, str, ir.Model], None]  # (stage, pass, the model after it)


def run_passes(
    model: ir.Model,
    stage: str,
    passes: list[ir.passes.InPlacePass],
    inspect: Inspector | None = None,
) -> ir.Model:
    """The model after the passes. A pass that raises is named; `inspect` is called after each.

    A pass sees one graph at a time, the main one first, then every body of If, Loop and Scan as a
    model of its own; but for those that say `is_global`, and onnx_ir's own.
    """
    for each in passes:
        name = getattr(each, "name", type(each).__name__)
        try:
            if getattr(each, "is_global", type(each).__module__.startswith("onnx_ir")):
                each(model)
            else:
                with opened(model) as parts:
                    for part in parts:
                        each(part)
        except QcompileError:
            raise
        except Exception as error:
            raise QcompileError(f"pass {name} of stage {stage} failed: {error}") from error
        if inspect is not None:
            inspect(stage, name, model)
    _check_names(model)
    return model


def _check_names(model: ir.Model) -> None:
    """The names that passes give (x_codes, x_nhwc, …) must not be the user's own."""
    named = (v for graph in compiled_graphs(model) for v in values(graph) if v.name)
    counts = Counter(v.name for v in named if not v.is_graph_input() or v.uses())
    twice = sorted(str(name) for name, count in counts.items() if count > 1)
    if twice:
        raise InputError(
            f"the model has values that are named {', '.join(twice[:4])}, which qcompile needs for "
            "what it derives from others: rename them in the model"
        )
