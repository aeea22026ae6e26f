// SPDX-License-Identifier: Apache-2.0
// N30, N32 and N43, score by score.
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

int32_t weight_of(float score, float largest, const SoftmaxLevels& levels) {
  float steps = (score - largest) * kLog2E;
  steps = steps > kLowestPower ? steps : kLowestPower;
  const float whole = round_small(steps), f = steps - whole;
  const float scale = levels.top / static_cast<float>(1 << static_cast<int>(-whole));
  if (levels.kind == SoftmaxKind::kPowers || levels.kind == SoftmaxKind::kWidePowers) {
    return static_cast<int32_t>(round_small(scale));
  }
  float power = kPower[3] * f + kPower[2];
  power = power * f + kPower[1];
  power = power * f + kPower[0];
  power = power * f + 1.0f;
  const int32_t found = static_cast<int32_t>(round_small(power * scale));
  if (levels.kind == SoftmaxKind::kUniform) return found;
  if (found > levels.edge) return (found + levels.half) & -2 * levels.half;
  return found < levels.last_fine ? found : levels.last_fine;
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
    const int32_t weight = largest == kNoScore ? 0 : weight_of(a.scores[i], largest, a.levels);
    a.total += weight;
    if (a.levels.is_wide()) a.low_codes[i] = static_cast<int8_t>(weight % 128 - 128);
    a.codes[i] = static_cast<int8_t>((a.levels.is_wide() ? weight / 128 : weight) - 128);
  }
}

}  // namespace qcompile
