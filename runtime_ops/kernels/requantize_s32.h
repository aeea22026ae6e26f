// SPDX-License-Identifier: Apache-2.0
// The output of N30 and N43, 16 sums a step; QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {

void QC_ISA_NAME(requantize_s32)(requantize_s32_args& a) {
  constexpr int64_t kWidth = 16;
  const Requantizer code(a.y_zero_point, a.y_min, a.y_max);
  const Floats multiplier = set_floats(a.multiplier);
  for (int64_t i = 0; i < a.count; i += kWidth) {
    const Ints corrections = load_ints(a.corrections + i);
    Floats total = to_floats(add(load_ints(a.sums + i), corrections));
    if (a.low_sums) {
      const Ints low = add(load_ints(a.low_sums + i), corrections);
      total = add(mul(total, set_floats(128.0f)), to_floats(low));
    }
    store_low_bytes(a.y + i, code(total, multiplier), a.count - i);
  }
}

}  // namespace qcompile
