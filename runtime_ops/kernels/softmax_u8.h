// SPDX-License-Identifier: Apache-2.0
// N29, 16 codes a step; QC_ISA_NAME as in elementwise.h.
#include "epilogue.h"
#include "simd.h"

namespace qcompile {

namespace {

constexpr int64_t kWidth = 16;

uint8_t max_code(const uint8_t* __restrict__ x, int64_t count) {
  uint8_t found = 0;
  for (int64_t i = 0; i < count; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

QC_INLINE Floats exps_of(const uint8_t* x, Ints top, const float* table) {
  return lookup_floats(table, sub(top, widen(x)));
}

// The floats are integers of at most 2^24: 127 of them fit a lane of int32.
int64_t sum_of(const uint8_t* x, int64_t whole, Ints top, const float* table) {
  constexpr int64_t kAtOnce = 127 * kWidth;
  int64_t total = 0;
  for (int64_t first = 0; first < whole; first += kAtOnce) {
    const int64_t end = whole - first < kAtOnce ? whole : first + kAtOnce;
    Ints sums = set_ints(0);
    for (int64_t i = first; i < end; i += kWidth) {
      sums = add(sums, round_to_ints(exps_of(x + i, top, table)));
    }
    alignas(64) int32_t lanes[kWidth];
    store_ints(lanes, sums, kWidth);
    for (int32_t lane : lanes) total += lane;
  }
  return total;
}

}  // namespace

void QC_ISA_NAME(softmax_u8)(softmax_u8_args& a) {
  const int64_t count = a.num_columns, whole = count / kWidth * kWidth;
  const Requantizer code(a.y_zero_point, a.y_min, a.y_max);
  for (int64_t m = 0; m < a.num_rows; ++m) {
    const uint8_t* x = a.x + m * count;
    uint8_t* y = a.y + m * count;
    const int largest = max_code(x, count);
    const Ints top = set_ints(largest);
    int64_t total = sum_of(x, whole, top, a.table);
    for (int64_t i = whole; i < count; ++i) {
      total += static_cast<int64_t>(a.table[largest - x[i]]);
    }
    const float each =
        static_cast<float>(static_cast<double>(a.multiplier) / static_cast<double>(total));
    const Floats factor = set_floats(each);
    for (int64_t i = 0; i < whole; i += kWidth) {
      const Ints found = round_to_ints(exps_of(x + i, top, a.table));
      store_low_bytes(y + i, code(found, factor), kWidth);
    }
    for (int64_t i = whole; i < count; ++i) {
      const float v = a.table[largest - x[i]] * each;
      y[i] = static_cast<uint8_t>(code_of(v, a.y_zero_point, a.y_min, a.y_max));
    }
  }
}

}  // namespace qcompile
