// SPDX-License-Identifier: Apache-2.0
// N29, code by code.
#include "epilogue.h"

namespace qcompile {

void softmax_u8__scalar(softmax_u8_args& a) {
  const int64_t count = a.num_columns;
  for (int64_t m = 0; m < a.num_rows; ++m) {
    const uint8_t* x = a.x + m * count;
    uint8_t* y = a.y + m * count;
    int largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += static_cast<int64_t>(a.table[largest - x[i]]);
    const float each =
        static_cast<float>(static_cast<double>(a.multiplier) / static_cast<double>(total));
    for (int64_t i = 0; i < count; ++i) {
      const float v = a.table[largest - x[i]] * each;
      y[i] = static_cast<uint8_t>(code_of(v, a.y_zero_point, a.y_min, a.y_max));
    }
  }
}

}  // namespace qcompile
