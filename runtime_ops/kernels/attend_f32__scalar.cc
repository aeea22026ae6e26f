// SPDX-License-Identifier: Apache-2.0
// N32 for few rows, number by number.
#include <cmath>

#include "exp_codes.h"
#include "kernels.h"

namespace qcompile {

namespace {

float score_of(const attend_f32_args& a, int64_t s, float* lost) {
  float sum = 0;
  for (int64_t i = 0; i < a.depth; ++i) sum += a.q[i] * a.k[s * a.k_step + i];
  *lost += sum * 0.0f;  // NaN where it is not finite
  float v = sum * a.multiplier;
  if (a.mask) v += a.mask[s * a.mask_step];
  v = v > kNoScore ? v : kNoScore;  // NaN, too
  return v < kLargestScore ? v : kLargestScore;
}

}  // namespace

void attend_f32__scalar(attend_f32_args& a) {
  float largest = kNoScore, lost = 0, total = 0;
  for (int64_t s = 0; s < a.num_keys; ++s) {
    a.scores[s] = score_of(a, s, &lost);
    largest = a.scores[s] > largest ? a.scores[s] : largest;
  }
  const bool is_seen = lost == 0 && largest > kNoScore;
  for (int64_t s = 0; s < a.num_keys && is_seen; ++s) {
    a.scores[s] = std::exp(a.scores[s] - largest);
    total += a.scores[s];
  }
  for (int64_t i = 0; i < a.width; ++i) {
    float sum = lost == 0 ? 0 : NAN;
    for (int64_t s = 0; s < a.num_keys && is_seen; ++s) sum += a.scores[s] * a.v[s * a.v_step + i];
    const float y = is_seen ? sum / total : sum;
    a.y[i] = y * 0.0f + y;  // NaN where it is infinite
  }
}

}  // namespace qcompile
