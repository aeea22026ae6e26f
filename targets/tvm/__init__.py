# SPDX-License-Identifier: Apache-2.0
"""Integer-only graphs by TVM: CUDA kernels for a T4 and LLVM kernels for CPUs, one meaning.

cuda_*      kernels of words on tensor cores, their compilation without a GPU, their emulation
llvm_*      kernels of bytes on a CPU
plan        what both make of a graph; relax_module: what both become
run, run_cc what runs them where neither qcompile nor TVM is

Modules that need TVM when they are imported: all but `toolchain`, `words`, `tile`, `ptxas`, `plan`,
`requests` and `run`.
"""
