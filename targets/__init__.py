# SPDX-License-Identifier: Apache-2.0
"""Targets, one file each; TARGETS is the only list of them.

RESERVED names are spoken for and not built yet.
"""

from qcompile.errors import InputError, nearest
from qcompile.targets.cpu import CPU
from qcompile.targets.ort import ORT
from qcompile.targets.t4 import T4
from qcompile.targets.target import Request, Target
from qcompile.targets.tvm_cpu import TVM_CPU

TARGETS: dict[str, Target] = {target.name: target for target in [CPU, ORT, TVM_CPU, T4]}
RESERVED = ("arm64", "edge", "web", "c")


def get(name: str) -> Target:
    """The target of that name."""
    if name in TARGETS:
        return TARGETS[name]
    if name in RESERVED:
        raise InputError(f'target "{name}" is not in this build; it has: {", ".join(TARGETS)}')
    raise InputError(f'unknown target "{name}": {nearest(name, [*TARGETS, *RESERVED])}')


__all__ = ["RESERVED", "TARGETS", "Request", "Target", "get"]
