# SPDX-License-Identifier: Apache-2.0
"""The AVX-512 and AVX-VNNI kernels give the numbers of numerics, with emulated intrinsics.

`make emulate` builds the library. The tests of the operators run again in processes of their own.
"""

import platform

import pytest

from qcompile import runtime_ops
from tests.packaging.source_tree import ROOT
from tests.runtime_ops.test_guarded import TESTS, in_process

EMULATED = ROOT / "build/emulated/runtime_ops" / runtime_ops.LIBRARY
LIBRARY = {"QC_LIBRARY": str(EMULATED)}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EMULATED.is_file(), reason="no such library: make emulate"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="it emulates x86-64"),
]

CHOSEN = """
from tests.runtime_ops import other_library
other_library.pytest_configure()
from qcompile import runtime_ops
print(*runtime_ops.supported_isas())
"""


@pytest.mark.parametrize("isa", ["avxvnni", "avx512vnni", "avx512vbmi2"])
def test_emulated_kernels_equal_numerics(isa):
    plugin = ["-p", "no:cacheprovider", "-p", "tests.runtime_ops.other_library"]
    files = [*TESTS, str(ROOT / "tests/runtime_ops/test_dyadic.py")]
    done = in_process(["-m", "pytest", "-q", "-x", *plugin, *files], QCOMPILE_ISA=isa, **LIBRARY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_library_runs_all_of_x86():
    done = in_process(["-c", CHOSEN], **LIBRARY)
    every = ["scalar", "avx2", "avxvnni", "avx512vnni", "avx512vbmi2"]
    assert done.stdout.split() == every, done.stderr[-2000:]
