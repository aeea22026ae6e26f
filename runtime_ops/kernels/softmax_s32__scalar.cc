// SPDX-License-Identifier: Apache-2.0
// N30 and N32, score by score.
#include "epilogue.h"
#include "exp_codes.h"

namespace qcompile {

namespace {

float score_of(const softmax_s32_args& a, int64_t i) {
  float v = static_cast<float>(a.sums[i] + a.corrections[i]);
  if (a.column_multipliers) v = v * a.column_multipliers[i];
  v = v * a.multiplier;
  if (a.mask) v = v + a.mask[i * a.mask_step];
  v = v > kNoScore ? v : kNoScore;  // NaN too
  return v < kLargestScore ? v : kLargestScore;
}

int32_t code_of_score(float score, float largest) {
  float steps = (score - largest) * kLog2E;
  steps = steps > kLowestPower ? steps : kLowestPower;
  const float whole = round_small(steps), f = steps - whole;
  float power = kPower[3] * f + kPower[2];
  power = power * f + kPower[1];
  power = power * f + kPower[0];
  power = power * f + 1.0f;
  const float scale = 255.0f / static_cast<float>(1 << static_cast<int>(-whole));
  return static_cast<int32_t>(round_small(power * scale));
}

}  // namespace

void softmax_s32__scalar(softmax_s32_args& a) {
  float largest = kNoScore;
  for (int64_t i = 0; i < a.num_columns; ++i) {
    a.scores[i] = score_of(a, i);
    largest = a.scores[i] > largest ? a.scores[i] : largest;
  }
  a.total = 0;
  for (int64_t i = 0; i < a.num_columns; ++i) {
    const int32_t code = largest == kNoScore ? 0 : code_of_score(a.scores[i], largest);
    a.total += code;
    a.codes[i] = static_cast<int8_t>(code - 128);
  }
}

}  // namespace qcompile
