// SPDX-License-Identifier: Apache-2.0
// The scalar meaning of what follows an exact sum: N4, N11, N13, N16. Static for the reason given
// in weight_elements.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace qcompile {
namespace {

// rint, ties to even, for |v| < 2^22 (the sum's unit in the last place is 1); vectorizes on any ISA.
inline float round_small(float v) {
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (v + magic) - magic;
}

// clamp(rint(v) + zero_point, y_min, y_max): the bounds are integers and rint is monotone, so
// clamping first is the same number and keeps round_small in its range.
inline int32_t code_of(float v, int32_t zero_point, int32_t y_min, int32_t y_max) {
  const float low = static_cast<float>(y_min - zero_point);
  const float high = static_cast<float>(y_max - zero_point);
  v = v < low ? low : v;
  v = v > high ? high : v;
  return static_cast<int32_t>(round_small(v)) + zero_point;
}

inline int32_t saturate_int32(int64_t v) {
  return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : static_cast<int32_t>(v);
}

// N11; acc includes the correction of the x zero point.
inline uint8_t requantize_f32(int64_t acc, int32_t bias, float multiplier, const Epilogue& e) {
  const float total = static_cast<float>(saturate_int32(acc + bias));
  return static_cast<uint8_t>(code_of(total * multiplier, e.y_zero_point, e.y_min, e.y_max));
}

// N16; acc includes the correction of the x zero point.
inline float scaled_f32(int64_t acc, int32_t bias, float multiplier, const Epilogue& e) {
  const float v = static_cast<float>(saturate_int32(acc + bias)) * multiplier;
  return v < e.clip_min ? e.clip_min : v > e.clip_max ? e.clip_max : v;
}

// NaN passes: both comparisons are false.
inline float clip(float v, float low, float high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

// N13; `sum` is the scaled sum over blocks.
inline float finish_float(float sum, float x_scale, float bias, const Epilogue& e) {
  return clip(x_scale * sum + bias, e.clip_min, e.clip_max);
}

// The scale of dynamic activations from the bits of amax, N4; amax itself is `reach` scales.
inline float dynamic_scale(int32_t amax_bits, float reach) {
  if (amax_bits >= 0x7f800000) return NAN;
  if (amax_bits == 0) return 1.0f;
  float amax;
  std::memcpy(&amax, &amax_bits, 4);
  const float scale = amax / reach;
  const float smallest = 1.17549435e-38f;  // 2^-126
  return scale < smallest ? smallest : scale;
}

}  // namespace
}  // namespace qcompile
