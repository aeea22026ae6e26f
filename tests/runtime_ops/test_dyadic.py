# SPDX-License-Identifier: Apache-2.0
"""The scalar function of N12, compiled by itself."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qcompile.numerics.requantize import requantize_dyadic

KERNELS = Path(__file__).resolve().parents[2] / "runtime_ops" / "kernels"
PROGRAM = """
#include <cstdio>
#include "dyadic.h"
int main() {
  int acc, m, e;
  while (std::scanf("%d %d %d", &acc, &m, &e) == 3) {
    std::printf("%lld\\n", static_cast<long long>(qcompile::requantize_dyadic(acc, m, e)));
  }
}
"""


def test_dyadic_is_numerics(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the function with")
    (tmp_path / "dyadic.cc").write_text(PROGRAM)
    program = tmp_path / "dyadic"
    sources = ["-std=c++17", "-I", str(KERNELS), str(tmp_path / "dyadic.cc"), "-o", str(program)]
    subprocess.run([compiler, *sources], check=True)
    rng = np.random.default_rng(0)
    edges = [0, 1, -1, 2, -2, 3, -3, 127, 2**15, 2**30, -(2**30), 2**31 - 1, -(2**31 - 1)]
    accs = [*edges, *rng.integers(-(2**31) + 1, 2**31, 20)]
    factors = [0, 1, 2, 3, 2**15, 2**30, 2**31 - 1, *rng.integers(0, 2**31, 5)]
    grid = np.array(np.meshgrid(accs, factors, [1, 2, 15, 30, 31, 32, 61, 62])).reshape(3, -1)
    text = "\n".join(" ".join(map(str, case)) for case in grid.T.tolist())
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    got = np.array(done.stdout.split(), np.int64)
    np.testing.assert_array_equal(got, requantize_dyadic(*grid))
