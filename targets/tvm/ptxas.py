# SPDX-License-Identifier: Apache-2.0
"""What ptxas -v says of each kernel: registers, shared memory, spills; occupancy of a T4."""

import re
from dataclasses import dataclass

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")

# Compute capability 7.5 (CUDA C++ Programming Guide, table of technical specifications).
REGISTERS, SHARED_BYTES, THREADS, BLOCKS, WARP = 65_536, 64 * 1024, 1024, 16, 32
# Registers are handed out to a warp in units of 256.
REGISTER_UNIT = 256


@dataclass(frozen=True)
class Resources:
    """One kernel, as compiled."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int

    def occupancy(self, threads: int) -> float:
        """Resident warps of an SM ÷ 32, which it can hold.

        >>> Resources(64, 16384, 0, 0).occupancy(256)
        1.0
        >>> Resources(128, 33000, 0, 0).occupancy(256)
        0.25
        """
        warps = -(-threads // WARP)
        each = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        blocks = min(REGISTERS // (each * warps), THREADS // (warps * WARP), BLOCKS)
        if self.shared_bytes:
            blocks = min(blocks, SHARED_BYTES // self.shared_bytes)
        return blocks * warps * WARP / THREADS


def parse(log: str) -> dict[str, Resources]:
    """Resources by kernel, TVM's suffix `_kernel` taken off."""
    found: dict[str, Resources] = {}
    for part in log.split("Compiling entry function ")[1:]:
        entry = ENTRY.match("Compiling entry function " + part)
        stack, used, shared = STACK.search(part), USED.search(part), SHARED.search(part)
        assert entry and stack and used, part
        found[entry[1].removesuffix("_kernel")] = Resources(
            int(used[1]),
            int(shared[1]) if shared else 0,
            int(stack[1]),
            int(stack[2]) + int(stack[3]),
        )
    return found
