// SPDX-License-Identifier: Apache-2.0
// Sparse codes, one number at a time: the scalar kernel reads codes of every kind.
#include "kernels.h"

namespace qcompile {

void matmul_s8_n16k4s__scalar(matmul_s8_n16k4_args& a) { matmul_s8_n16k4__scalar(a); }

}  // namespace qcompile
