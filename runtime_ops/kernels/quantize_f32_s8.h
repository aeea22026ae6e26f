// SPDX-License-Identifier: Apache-2.0
// Dynamic activations, N2 and N4: the greatest magnitude, its scale, and the codes.
// QC_ISA_NAME as in elementwise.h.
#include "epilogue.h"
#include "quantizer.h"

namespace qcompile {
namespace {

QC_INLINE int32_t amax_bits(const float* x, int64_t count, int32_t bits) {
  const int32_t* words = reinterpret_cast<const int32_t*>(x);
  const Ints mask = set_ints(0x7fffffff);
  Ints amax[2] = {set_ints(bits), set_ints(0)};
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    amax[0] = max(amax[0], bit_and(load_ints(words + i), mask));
    amax[1] = max(amax[1], bit_and(load_ints(words + i + 16), mask));
  }
  for (; i < count; i += 16) {
    amax[1] = max(amax[1], bit_and(load_ints(words + i, count - i), mask));
  }
  return max_of(max(amax[0], amax[1]));
}

QC_INLINE void quantize(const float* x, int64_t count, float scale, int32_t limit, int8_t* codes) {
  if (scale != scale) {
    std::memset(codes, 0, static_cast<size_t>(count));
    return;
  }
  const Quantizer quantizer(scale, limit);
  const int32_t* words = reinterpret_cast<const int32_t*>(x);
  for (int64_t i = 0; i < count; i += 16) {
    const Floats v = as_floats(load_ints(words + i, count - i));
    store_signed_bytes(codes + i, quantizer(v), count - i);
  }
}

}  // namespace

void QC_ISA_NAME(amax_f32)(amax_f32_args& a) {
  a.amax_bits = amax_bits(a.x, a.count, a.amax_bits);
}

void QC_ISA_NAME(quantize_f32_s8)(quantize_f32_s8_args& a) {
  quantize(a.x, a.count, a.scale, a.limit, a.codes);
}

void QC_ISA_NAME(quantize_rows_f32_s8)(quantize_rows_f32_s8_args& a) {
  // Some rows at a time: the maxima, divisions and codes of one row wait for each other, those of
  // several do not.
  constexpr int64_t kRows = 8;
  for (int64_t first = 0; first < a.num_rows; first += kRows) {
    const int64_t left = a.num_rows - first, count = left < kRows ? left : kRows;
    const float* x = a.x + first * a.num_columns;
    int32_t bits[kRows];
    for (int64_t m = 0; m < count; ++m) {
      bits[m] = amax_bits(x + m * a.num_columns, a.num_columns, 0);
    }
    for (int64_t m = 0; m < count; ++m) a.scales[first + m] = dynamic_scale(bits[m], a.reach);
    for (int64_t m = 0; m < count; ++m) {
      int8_t* codes = a.codes + (first + m) * a.stride;
      quantize(x + m * a.num_columns, a.num_columns, a.scales[first + m], a.limit, codes);
      zero_bytes(codes + a.num_columns, a.stride - a.num_columns);
    }
  }
}

}  // namespace qcompile
