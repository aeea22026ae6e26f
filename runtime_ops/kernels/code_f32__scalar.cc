// SPDX-License-Identifier: Apache-2.0
// Quantize and Dequantize of any format of at most 8 bits, literally N1 and N2: slow and exact.
#include "epilogue.h"

namespace qcompile {
namespace {

// The index of the nearest table value: a tie goes to the even index, N2; of equal values (0 and
// -0) the first.
int32_t nearest_index(const float* table, int size, float ratio) {
  // Beyond the table's ends the nearest entry is the end itself; infinities would have no distance.
  float low = table[0], high = table[0];
  for (int i = 1; i < size; ++i) {
    low = table[i] < low ? table[i] : low;
    high = table[i] > high ? table[i] : high;
  }
  ratio = clip(ratio, low, high);
  int best = 0;
  for (int i = 1; i < size; ++i) {
    const double distance = std::fabs(static_cast<double>(table[i]) - ratio);
    const double best_distance = std::fabs(static_cast<double>(table[best]) - ratio);
    const bool wins_tie = best % 2 == 1 && i % 2 == 0 && table[i] != table[best];
    if (distance < best_distance || (distance == best_distance && wins_tie)) best = i;
  }
  return best;
}

int32_t quantize(const code_f32_args& a, float real) {
  float ratio = real / a.scale;
  if (ratio != ratio) ratio = 0;  // N24; an infinite ratio clamps
  if (a.table) {
    const int32_t index = nearest_index(a.table, a.num_codes, ratio);
    if (a.special_code < 0) return index;
    const double bounded = clip(ratio, -512.0f, 512.0f);  // all values are bytes
    const double special = std::fabs(a.zero_point - bounded);
    const double nearest = std::fabs(static_cast<double>(a.table[index]) - bounded);
    return special < nearest ? a.special_code : index;
  }
  const int32_t lowest = a.is_signed ? -(a.num_codes / 2) : 0;
  const int32_t high = lowest + a.num_codes - 1;
  const bool has_odd_code = a.num_codes > 2 && a.num_codes % 2 == 0;
  const int32_t low = a.is_signed && a.is_symmetric && has_odd_code ? lowest + 1 : lowest;
  const double code = static_cast<double>(std::nearbyint(ratio)) + a.zero_point;
  return static_cast<int32_t>(code < low ? low : code > high ? high : code);
}

float dequantize(const code_f32_args& a, int8_t stored) {
  const int32_t pattern = static_cast<uint8_t>(stored);
  if (a.table) {
    const int32_t index = pattern & (a.num_codes - 1);
    const bool is_special = index == a.special_code;
    return (is_special ? static_cast<float>(a.zero_point) : a.table[index]) * a.scale;
  }
  const int32_t code = a.is_signed ? stored : pattern;
  return static_cast<float>(code - a.zero_point) * a.scale;
}

}  // namespace

void code_f32__scalar(code_f32_args& a) {
  for (int64_t i = 0; i < a.count; ++i) {
    if (a.is_quantize) {
      a.codes[i] = static_cast<int8_t>(quantize(a, a.real[i]));
    } else {
      a.real[i] = dequantize(a, a.codes[i]);
    }
  }
}

}  // namespace qcompile
