# SPDX-License-Identifier: Apache-2.0
"""From a plan to a Relax module, and from it to a shared library that needs no compiler to run."""

import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from qcompile.targets.tvm.plan import Plan, Step


def relax_module(plan: Plan) -> Any:
    """IRModule: every kernel of the plan, and `main`, which calls them in order."""
    builder = relax.BlockBuilder()
    x = relax.Var(plan.input_name, relax.TensorType(plan.input_shape, plan.input_kind))
    values: dict[str, Any] = {plan.input_name: x}
    with builder.function("main", [x]):
        with builder.dataflow():
            for step in plan.steps:
                made = builder.emit(_call(builder, step, values))
                if step.view is not None:
                    made = builder.emit(relax.op.reshape(made, step.view))
                values[step.output] = made
            result = builder.emit_output(values[plan.steps[-1].output])
        builder.emit_func_output(result)
    return builder.get()


def _call(builder: Any, step: Step, values: dict[str, Any]) -> Any:
    function = builder.add_func(step.function, step.name)
    sources = [
        values[source] if isinstance(source, str) else relax.const(source, source.dtype.name)
        for _, source in step.arguments
    ]
    return relax.call_tir(function, sources, relax.TensorType(step.shape, step.kind))


def relax_passes() -> Any:
    """What lowers `main`. TVM's own list also looks for kernels that only reshape; ours do not."""
    names = (
        *("ToNonDataflow", "RemovePurityChecking", "CallTIRRewrite", "StaticPlanBlockMemory"),
        *("LowerAllocTensor", "KillAfterLastUse", "LowerRuntimeBuiltin", "ComputePrimValue"),
        *("VMShapeLower", "AttachGlobalSymbol"),
    )
    return tvm.transform.Sequential([getattr(relax.transform, name)() for name in names])


def export(executable: Any, path: Path) -> None:
    """Writes the shared library, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".qcompile-", dir=path.parent) as folder:
        written = Path(folder, path.name)
        executable.export_library(str(written))
        written.replace(path)
