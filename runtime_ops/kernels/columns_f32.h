// SPDX-License-Identifier: Apache-2.0
// Keys and values of N32, 16 columns a step; QC_ISA_NAME as in elementwise.h.
#include "epilogue.h"
#include "quantizer.h"

namespace qcompile {
namespace {

// The maxima, divisions and codes of one key wait for each other, those of several do not.
constexpr int64_t kKeysAtOnce = 8;

QC_INLINE Floats load_row(const float* x, int64_t count) {
  return as_floats(load_ints(reinterpret_cast<const int32_t*>(x), count));
}

QC_INLINE void find_mean(const quantize_keys_f32_u8_args& a) {
  for (int64_t i = 0; i < a.num_columns; i += 16) store_floats(a.mean + i, set_floats(0), 16);
  const float* x = a.x;
  for (int64_t m = 0; m < a.num_rows; ++m, x += a.row_step) {
    for (int64_t i = 0; i < a.num_columns; i += 16) {
      const Floats total = add(load_floats(a.mean + i), load_row(x + i, a.num_columns - i));
      store_floats(a.mean + i, total, 16);
    }
  }
  const Floats share = set_floats(1.0f / static_cast<float>(a.num_rows));
  for (int64_t i = 0; i < a.num_columns; i += 16) {
    store_floats(a.mean + i, mul(load_floats(a.mean + i), share), 16);
  }
}

// 16 numbers of a row without the mean; 0 beyond its end.
QC_INLINE Floats load_centred(const quantize_keys_f32_u8_args& a, const float* x, int64_t i) {
  return sub(load_row(x + i, a.num_columns - i), load_floats(a.mean + i));
}

QC_INLINE void quantize_keys(const quantize_keys_f32_u8_args& a, int64_t first, int64_t count) {
  const float* x = a.x + first * a.row_step;
  Ints amax[kKeysAtOnce];
  for (int64_t m = 0; m < count; ++m, x += a.row_step) {
    amax[m] = set_ints(0);
    for (int64_t i = 0; i < a.num_columns; i += 16) {
      amax[m] = max(amax[m], bit_and(as_ints(load_centred(a, x, i)), set_ints(0x7fffffff)));
    }
  }
  const float reach = static_cast<float>(a.limit);
  for (int64_t m = 0; m < count; ++m) {
    a.scales[first + m] = dynamic_scale(max_of(amax[m]), reach);
  }
  x = a.x + first * a.row_step;
  uint8_t* codes = a.codes + first * a.num_columns;
  for (int64_t m = 0; m < count; ++m, x += a.row_step, codes += a.num_columns) {
    const Quantizer quantizer(a.scales[first + m], a.limit);
    for (int64_t i = 0; i < a.num_columns; i += 16) {
      const Ints code = quantizer(load_centred(a, x, i));
      store_low_bytes(codes + i, add(code, set_ints(128)), a.num_columns - i);
    }
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
  float largest = 0;
  for (int i = 0; i < 16; ++i) {
    scales[i] = dynamic_scale(bits[i], static_cast<float>(a.limit));
    largest = scales[i] > largest ? scales[i] : largest;
  }
  const Floats scale = load_floats(scales);
  store_floats(a.scales + first, scale, count);
  // Columns without a scale have any codes.
  const Quantizer quantizer(scale, div(set_floats(1.0f), scale), largest, a.limit);
  uint8_t* codes = a.codes + first;
  for (int64_t m = 0; m < a.num_rows; ++m, codes += a.num_columns) {
    const Ints code = quantizer(load_row(a.x + first + m * a.row_step, count));
    store_low_bytes(codes, add(code, set_ints(128)), count);
  }
}

}  // namespace

void QC_ISA_NAME(quantize_keys_f32_u8)(quantize_keys_f32_u8_args& a) {
  find_mean(a);
  for (int64_t m = 0; m < a.num_rows; m += kKeysAtOnce) {
    const int64_t left = a.num_rows - m;
    quantize_keys(a, m, left < kKeysAtOnce ? left : kKeysAtOnce);
  }
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
