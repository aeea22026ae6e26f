# SPDX-License-Identifier: Apache-2.0
"""Weights of 1 MiB and more in anonymous memory lie in huge pages, where the system has them."""

import ctypes
import mmap
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from qcompile.formats import get
from qcompile.layouts.n16k4 import N16K4
from tests.packaging.source_tree import ROOT
from tests.runtime_ops import single_op as one

MADV_COLLAPSE = 25  # Linux 6.1
PAGE = 1 << 21


def huge_bytes() -> int:
    """Anonymous memory of this process in huge pages."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^AnonHugePages: +(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def has_huge_pages() -> bool:
    """Whether the system gives one when it is asked."""
    if not Path("/proc/self/smaps_rollup").exists():
        return False
    area, before = mmap.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE), huge_bytes()
    area.write(b"1" * (4 * PAGE))
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None)
    libc.madvise(
        ctypes.c_void_p(-(-start // PAGE) * PAGE), ctypes.c_size_t(2 * PAGE), MADV_COLLAPSE
    )
    return huge_bytes() - before >= 2 * PAGE


def gained(n: int) -> int:
    """What a session of a product of 4096 columns and n outputs adds, of 8 bits each."""
    rng, k = np.random.default_rng(0), 4096
    weight = one.random_weight(rng, n, k, get("int8"), 0, "f16")
    attributes = one.weight_attributes(weight, N16K4.name)
    attributes |= {"activation": "dynamic", "activation_bits": 8}
    x = rng.standard_normal((1, k), dtype=np.float32)
    inputs = [x, one.pack(weight, N16K4.name)]
    model = one.build("QMatMul", inputs, attributes, [(TensorProto.FLOAT, 2)])
    before = huge_bytes()
    session = one.session(model)
    found = huge_bytes() - before
    assert np.isfinite(session.run(None, {"input_0": x})[0]).all()
    return found


@pytest.mark.parametrize(("n", "expected"), [(4096, True), (192, False)])
def test_large_weights_alone_ask_for_them(n: int, expected: bool) -> None:
    """In a process of its own: what others have left in the heap would count, too."""
    if not has_huge_pages():
        pytest.skip("the system gives no huge pages")
    script = f"from tests.runtime_ops.test_huge_pages import gained; print(gained({n}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = int(done.stdout)
    # 16 MiB, of which the first and the last page may have neighbours that are not mapped.
    assert found >= 6 * PAGE if expected else found < PAGE
