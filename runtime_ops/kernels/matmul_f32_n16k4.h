// SPDX-License-Identifier: Apache-2.0
// Float rows times a packed panel, N14, of every dense kind of codes. QC_ISA_NAME as in
// elementwise.h.
#include "matmul_f32_levels.h"

namespace qcompile {

void QC_ISA_NAME(matmul_f32_n16k4)(matmul_f32_n16k4_args& a) {
  if (a.weight->level_bytes) return levels_product(a);
  const TabledWeight tabled(*a.weight);
  switch (a.weight->bits) {
    case 1: return float_product<1>(a, tabled);
    case 2: return float_product<2>(a, tabled);
    case 3: return float_product<3>(a, tabled);
    case 4: return float_product<4>(a, tabled);
    case 5: return float_product<5>(a, tabled);
    case 6: return float_product<6>(a, tabled);
    case 7: return float_product<7>(a, tabled);
    case kTrits: return float_product<kTrits>(a, tabled);
    case kQuints: return float_product<kQuints>(a, tabled);
    default: return float_product<8>(a, tabled);
  }
}

}  // namespace qcompile
