# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: the nodes that the kernels' tests run, run on an emulated arm64 machine.

`QC_ARM64_PROCESSOR` names the processor. The expected values come from numerics, here.
"""

import os

from tests.arm64.machine import Machine
from tests.runtime_ops import single_op


def pytest_configure(config) -> None:
    """Before the tests are imported, and so before one takes the name."""
    machine = Machine(os.environ["QC_ARM64_PROCESSOR"], os.environ.get("QC_ARM64_ISA"))
    config.add_cleanup(machine.close)

    def run(op, inputs, attributes, outputs, fed=(0,), threads=1):
        model = single_op.build(op, inputs, attributes, outputs, fed)
        feed = {f"input_{i}": inputs[i] for i in fed if inputs[i] is not None}
        return machine.run(model, feed)

    single_op.run = run
