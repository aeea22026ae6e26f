# SPDX-License-Identifier: Apache-2.0
"""Integer-only graphs by TVM: CUDA kernels for a T4 and LLVM kernels for CPUs, one meaning.

cuda_*      kernels of words on tensor cores, their compilation without a GPU, their emulation
llvm_*      kernels of bytes on a CPU
plan        what both make of a graph; relax_module, runner: what both become

Every module but `toolchain`, `words`, `tile`, `ptxas` and `runner` needs TVM when it is imported.
"""
