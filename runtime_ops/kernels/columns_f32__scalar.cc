// SPDX-License-Identifier: Apache-2.0
// The literal reading of N32: column by column.
#include "epilogue.h"

namespace qcompile {

void centre_columns_f32__scalar(centre_columns_f32_args& a) {
  for (int64_t i = 0; i < a.num_columns; ++i) {
    float total = 0;
    for (int64_t m = 0; m < a.num_rows; ++m) total = total + a.x[m * a.row_step + i];
    const float mean = total * (1.0f / static_cast<float>(a.num_rows));
    for (int64_t m = 0; m < a.num_rows; ++m) {
      a.y[m * a.num_columns + i] = a.x[m * a.row_step + i] - mean;
    }
  }
}

void quantize_columns_f32_u8__scalar(quantize_columns_f32_u8_args& a) {
  const float limit = static_cast<float>(a.limit);
  for (int64_t i = 0; i < a.num_columns; ++i) {
    int32_t amax = 0;
    for (int64_t m = 0; m < a.num_rows; ++m) {
      int32_t bits;
      std::memcpy(&bits, a.x + m * a.row_step + i, 4);
      bits &= 0x7fffffff;
      amax = bits > amax ? bits : amax;
    }
    const float scale = dynamic_scale(amax, a.limit);
    a.scales[i] = scale;
    for (int64_t m = 0; m < a.num_rows; ++m) {
      float v = a.x[m * a.row_step + i] / scale;
      v = v > -limit ? v : -limit;  // NaN, too: columns without a scale have any codes
      v = v < limit ? v : limit;
      a.codes[m * a.num_columns + i] = static_cast<uint8_t>(static_cast<int32_t>(round_small(v)) + 128);
    }
  }
}

void scale_s32_f32__scalar(scale_s32_f32_args& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    a.y[i] = (static_cast<float>(a.sums[i] + a.corrections[i]) * a.scales[i]) * a.multiplier;
  }
}

}  // namespace qcompile
