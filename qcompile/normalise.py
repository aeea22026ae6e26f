# SPDX-License-Identifier: Apache-2.0
"""normalise: the model in few op kinds, BatchNorm folded, weights [N, K], names frozen."""

from collections.abc import Callable

import onnx_ir as ir

from qcompile.load import foreign_nodes
from qcompile.op_libraries import used_op_libraries
from qcompile.passes import NAME, NORMALISE
from qcompile.stage import Inspector, run_passes


def normalise(
    source: ir.Model,
    inspect: Inspector | None = None,
    is_split: Callable[[ir.Node], bool] = lambda _: False,
    is_turned: Callable[[ir.Node], bool] = lambda _: False,
) -> ir.Model:
    """A normalised copy, whose meta["notes"] are for the report; tensors are the source's.

    is_split: which recurrent nodes are split into products. is_turned: of which complex products
    the weights are turned by 45 degrees.
    """
    model = run_passes(source.clone(), "normalise", NORMALISE(is_split, is_turned), inspect)
    model.meta["notes"] = notes_of(source)
    return model


def named(source: ir.Model) -> ir.Model:
    """A copy whose bodies of If, Loop and Scan are those of the normalised model, not rewritten."""
    return run_passes(source.clone(), "normalise", NAME())


def notes_of(source: ir.Model) -> list[str]:
    """What a caller of the model could notice."""
    return [*_notes_of_defaults(source), *_notes_of_libraries(source)]


def _notes_of_libraries(source: ir.Model) -> list[str]:
    domains = {node.domain for node in foreign_nodes(source)}
    names = [path.name for path in used_op_libraries()]
    if not domains or not names:
        return []
    return [
        f"ops of {', '.join(sorted(domains))} stay as they are: whoever runs the artifact gives "
        f"ONNX Runtime their library ({', '.join(names)}), as qcompile.use_op_library does"
    ]


def _notes_of_defaults(source: ir.Model) -> list[str]:
    defaults = [v.name for v in source.graph.inputs if v.is_initializer()]
    if not defaults or source.ir_version < 4:  # which lists every initializer there
        return []
    shown = ", ".join(str(name) for name in defaults[:3]) + (", …" if len(defaults) > 3 else "")
    return [
        f"{len(defaults)} of the model's inputs have a default value and became constants: {shown}"
    ]
