// SPDX-License-Identifier: Apache-2.0
#include "epilogue.h"

namespace qcompile {

void requantize_s32__scalar(requantize_s32_args& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    float v = static_cast<float>(a.sums[i] + a.corrections[i]);
    if (a.low_sums) v = v * 128.0f + static_cast<float>(a.low_sums[i] + a.corrections[i]);
    v = v * a.multiplier;
    a.y[i] = static_cast<uint8_t>(code_of(v, a.y_zero_point, a.y_min, a.y_max));
  }
}

}  // namespace qcompile
