// SPDX-License-Identifier: Apache-2.0
// The literal reading of N2 and N4.
#include "epilogue.h"

namespace qcompile {

void amax_f32__scalar(amax_f32_args& a) {
  int32_t amax = a.amax_bits;
  for (int64_t i = 0; i < a.count; ++i) {
    int32_t bits;
    std::memcpy(&bits, a.x + i, 4);
    bits &= 0x7fffffff;
    amax = bits > amax ? bits : amax;
  }
  a.amax_bits = amax;
}

void quantize_f32_s8__scalar(quantize_f32_s8_args& a) {
  const int64_t count = a.count;
  if (a.scale != a.scale) {
    std::memset(a.codes, 0, static_cast<size_t>(count));
    return;
  }
  const float scale = a.scale, limit = static_cast<float>(a.limit);
  const float* __restrict__ x = a.x;
  int8_t* __restrict__ codes = a.codes;
  for (int64_t i = 0; i < count; ++i) {
    // |x / scale| may pass the limit by a rounding, or by much where scale was raised to 2^-126.
    float v = x[i] / scale;
    v = v < -limit ? -limit : v;
    v = v > limit ? limit : v;
    codes[i] = static_cast<int8_t>(static_cast<int32_t>(round_small(v)));
  }
}

void quantize_rows_f32_s8__scalar(quantize_rows_f32_s8_args& a) {
  for (int64_t m = 0; m < a.num_rows; ++m) {
    amax_f32_args amax{a.x + m * a.num_columns, a.num_columns, 0};
    amax_f32__scalar(amax);
    a.scales[m] = dynamic_scale(amax.amax_bits, a.reach);
    int8_t* codes = a.codes + m * a.stride;
    quantize_f32_s8_args row{amax.x, a.num_columns, a.scales[m], a.limit, codes};
    quantize_f32_s8__scalar(row);
    std::memset(codes + a.num_columns, 0, static_cast<size_t>(a.stride - a.num_columns));
  }
}

}  // namespace qcompile
