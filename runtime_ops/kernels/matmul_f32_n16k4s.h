// SPDX-License-Identifier: Apache-2.0
// Float rows times a panel of sparse codes, N14. QC_ISA_NAME as in elementwise.h.
#include "matmul_f32_panel.h"

namespace qcompile {

void QC_ISA_NAME(matmul_f32_n16k4s)(matmul_f32_n16k4_args& a) {
  const TabledWeight tabled(*a.weight);
  if (code_bits(a.weight->bits) == 3) return float_product<kSparse + 3>(a, tabled);
  float_product<kSparse + 4>(a, tabled);
}

}  // namespace qcompile
