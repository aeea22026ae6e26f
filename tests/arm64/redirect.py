# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: the nodes that the kernels' tests run, run on an emulated arm64 machine.

`QC_ARM64_PROCESSOR` names the processor. The expected values come from numerics, here.
"""

import os

import pytest

from tests.arm64.machine import Machine
from tests.runtime_ops import single_op


@pytest.fixture(autouse=True, scope="session")
def on_arm64():
    machine = Machine(os.environ["QC_ARM64_PROCESSOR"])

    def run(op, inputs, attributes, outputs, fed=(0,), threads=1):
        model = single_op.build(op, inputs, attributes, outputs, fed)
        feed = {f"input_{i}": inputs[i] for i in fed if inputs[i] is not None}
        return machine.run(model, feed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_op, "run", run)
        yield
    machine.close()
