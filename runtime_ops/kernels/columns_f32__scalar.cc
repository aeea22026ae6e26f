// SPDX-License-Identifier: Apache-2.0
// The literal reading of N32: column by column.
#include "epilogue.h"

namespace qcompile {

namespace {

// The larger one, of magnitudes by their bits.
int32_t larger(int32_t amax, float v) {
  int32_t bits;
  std::memcpy(&bits, &v, 4);
  bits &= 0x7fffffff;
  return bits > amax ? bits : amax;
}

// 128 + the code of x; any code where it has no scale.
uint8_t code(float x, float scale, float limit) {
  float v = x / scale;
  v = v > -limit ? v : -limit;  // NaN, too
  v = v < limit ? v : limit;
  return static_cast<uint8_t>(static_cast<int32_t>(round_small(v)) + 128);
}

}  // namespace

void quantize_keys_f32_u8__scalar(quantize_keys_f32_u8_args& a) {
  const float limit = static_cast<float>(a.limit);
  for (int64_t i = 0; i < a.num_columns; ++i) {
    float total = 0;
    for (int64_t m = 0; m < a.num_rows; ++m) total = total + a.x[m * a.row_step + i];
    a.mean[i] = total * (1.0f / static_cast<float>(a.num_rows));
  }
  for (int64_t m = 0; m < a.num_rows; ++m) {
    const float* x = a.x + m * a.row_step;
    int32_t amax = 0;
    for (int64_t i = 0; i < a.num_columns; ++i) amax = larger(amax, x[i] - a.mean[i]);
    a.scales[m] = dynamic_scale(amax, limit);
    for (int64_t i = 0; i < a.num_columns; ++i) {
      a.codes[m * a.num_columns + i] = code(x[i] - a.mean[i], a.scales[m], limit);
    }
  }
}

void quantize_columns_f32_u8__scalar(quantize_columns_f32_u8_args& a) {
  const float limit = static_cast<float>(a.limit);
  for (int64_t i = 0; i < a.num_columns; ++i) {
    const float* x = a.x + i;
    int32_t amax = 0;
    for (int64_t m = 0; m < a.num_rows; ++m) amax = larger(amax, x[m * a.row_step]);
    a.scales[i] = dynamic_scale(amax, limit);
    for (int64_t m = 0; m < a.num_rows; ++m) {
      a.codes[m * a.num_columns + i] = code(x[m * a.row_step], a.scales[i], limit);
    }
  }
}

void scale_s32_f32__scalar(scale_s32_f32_args& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    a.y[i] = (static_cast<float>(a.sums[i] + a.corrections[i]) * a.scales[i]) * a.multiplier;
  }
}

}  // namespace qcompile
