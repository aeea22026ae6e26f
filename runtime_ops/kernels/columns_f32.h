// SPDX-License-Identifier: Apache-2.0
// Keys and values of N32, 16 columns a step; QC_ISA_NAME as in elementwise.h.
#include "epilogue.h"
#include "simd.h"

namespace qcompile {
namespace {

QC_INLINE Floats load_row(const float* x, int64_t count) {
  return as_floats(load_ints(reinterpret_cast<const int32_t*>(x), count));
}

// 16 columns, of which `count` are there.
QC_INLINE void centre(const centre_columns_f32_args& a, int64_t first, int64_t count) {
  const float* x = a.x + first;
  Floats total = set_floats(0);
  for (int64_t m = 0; m < a.num_rows; ++m) total = add(total, load_row(x + m * a.row_step, count));
  const Floats mean = mul(total, set_floats(1.0f / static_cast<float>(a.num_rows)));
  float* y = a.y + first;
  for (int64_t m = 0; m < a.num_rows; ++m, y += a.num_columns) {
    store_floats(y, sub(load_row(x + m * a.row_step, count), mean), count);
  }
}

QC_INLINE void quantize(const quantize_columns_f32_u8_args& a, int64_t first, int64_t count) {
  const int32_t* words = reinterpret_cast<const int32_t*>(a.x) + first;
  Ints amax = set_ints(0);
  for (int64_t m = 0; m < a.num_rows; ++m) {
    amax = max(amax, bit_and(load_ints(words + m * a.row_step, count), set_ints(0x7fffffff)));
  }
  alignas(64) int32_t bits[16];
  alignas(64) float scales[16];
  store_ints(bits, amax, 16);
  for (int i = 0; i < 16; ++i) scales[i] = dynamic_scale(bits[i], a.limit);
  const Floats scale = load_floats(scales);
  store_floats(a.scales + first, scale, count);
  const Floats low = set_floats(static_cast<float>(-a.limit));
  const Floats high = set_floats(static_cast<float>(a.limit));
  uint8_t* codes = a.codes + first;
  for (int64_t m = 0; m < a.num_rows; ++m, codes += a.num_columns) {
    const Floats ratio = div(load_row(a.x + first + m * a.row_step, count), scale);
    // NaN takes the second operand: columns without a scale have any codes
    const Ints code = round_to_ints(min(max(ratio, low), high));
    store_low_bytes(codes, add(code, set_ints(128)), count);
  }
}

}  // namespace

void QC_ISA_NAME(centre_columns_f32)(centre_columns_f32_args& a) {
  for (int64_t i = 0; i < a.num_columns; i += 16) centre(a, i, a.num_columns - i);
}

void QC_ISA_NAME(quantize_columns_f32_u8)(quantize_columns_f32_u8_args& a) {
  for (int64_t i = 0; i < a.num_columns; i += 16) quantize(a, i, a.num_columns - i);
}

void QC_ISA_NAME(scale_s32_f32)(scale_s32_f32_args& a) {
  const Floats multiplier = set_floats(a.multiplier);
  for (int64_t i = 0; i < a.count; i += 16) {
    const Floats sums = to_floats(add(load_ints(a.sums + i), load_ints(a.corrections + i)));
    store_floats(a.y + i, mul(mul(sums, load_floats(a.scales + i)), multiplier), a.count - i);
  }
}

}  // namespace qcompile
