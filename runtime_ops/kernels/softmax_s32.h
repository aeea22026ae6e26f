// SPDX-License-Identifier: Apache-2.0
// N30, N32 and N43, 16 scores a step; QC_ISA_NAME as in elementwise.h. No FMA: every product is rounded.
#include "exp_codes.h"
#include "kernels.h"
#include "simd.h"

namespace qcompile {

namespace {

constexpr int64_t kWidth = 16;

// 1.5 · 2^23: added to a small number it leaves the nearest integer in the lowest bits.
constexpr float kMagic = 12582912.0f;
// From kEdge + 16 - n on: n times the largest score, then none; bits in place of it.
#define QC_TIMES_16(v) v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v
constexpr float kEdge[2 * kWidth] = {QC_TIMES_16(kLargestScore), QC_TIMES_16(kNoScore)};
constexpr int32_t kEdgeBits[2 * kWidth] = {QC_TIMES_16(-1), QC_TIMES_16(0)};
#undef QC_TIMES_16

// rint(power * top): of power = 2^(steps), or of its nearest power of two.
template <bool kIsPower>
QC_INLINE Ints scaled_exp(Floats score, Floats largest, Floats top) {
  const Floats lowest = set_floats(kLowestPower), magic = set_floats(kMagic);
  const Floats steps = max(lowest, mul(sub(score, largest), set_floats(kLog2E)));
  const Floats shifted = add(steps, magic);
  Floats whole = top;
  if constexpr (!kIsPower) {
    const Floats f = sub(steps, sub(shifted, magic));
    Floats power = add(mul(set_floats(kPower[3]), f), set_floats(kPower[2]));
    power = add(mul(power, f), set_floats(kPower[1]));
    power = add(mul(power, f), set_floats(kPower[0]));
    whole = mul(add(mul(power, f), set_floats(1.0f)), top);
  }
  // The integer, of -15 ... 0, added to the exponent; no bit of kMagic is left of the shift.
  const Ints scaled = add(as_ints(whole), shift_left<23>(as_ints(shifted)));
  return sub(as_ints(add(as_floats(scaled), magic)), as_ints(magic));
}

// Weights of 16 scores.
template <SoftmaxKind kKind>
struct Weights {
  static constexpr bool kIsPower =
      kKind == SoftmaxKind::kPowers || kKind == SoftmaxKind::kWidePowers;
  Floats largest, top;
  Ints last_fine, edge, half, multiples;

  Weights(float most, const SoftmaxLevels& v)
      : largest(set_floats(most)), top(set_floats(v.top)), last_fine(set_ints(v.last_fine)),
        edge(set_ints(v.edge)), half(set_ints(v.half)), multiples(set_ints(-2 * v.half)) {}
  QC_INLINE Ints operator()(const float* scores) const {
    const Ints found = scaled_exp<kIsPower>(load_floats(scores), largest, top);
    if constexpr (kKind != SoftmaxKind::kTwin) return found;
    const Ints low = min(found, last_fine), high = and_ints(add(found, half), multiples);
    const Ints is_high = shift_right_signed<31>(sub(edge, found));
    return add(low, and_ints(is_high, sub(high, low)));
  }
};

// The mask of up to 16 columns from `i`.
QC_INLINE Floats mask_of(const softmax_s32_args& a, int64_t i, int64_t left) {
  if (a.mask_step == 0) return set_floats(a.mask[0]);
  if (left >= kWidth) return load_floats(a.mask + i);
  alignas(64) float part[kWidth] = {};
  for (int64_t n = 0; n < left; ++n) part[n] = a.mask[i + n];
  return load_floats(part);
}

// The scores of up to 16 columns from `i`; those beyond the last are none.
template <bool kHasMask, bool kHasColumns>
QC_INLINE Floats scores_of(const softmax_s32_args& a, int64_t i) {
  const int64_t left = a.num_columns - i;
  const Ints sums = add(load_ints(a.sums + i), load_ints(a.corrections + i));
  Floats v = to_floats(sums);
  if (kHasColumns) v = mul(v, load_floats(a.column_multipliers + i));
  v = mul(v, set_floats(a.multiplier));
  if (kHasMask) v = add(v, mask_of(a, i, left));
  if (kHasMask || kHasColumns) {  // NaN takes the second operand, the bound
    v = min(max(v, set_floats(kNoScore)), set_floats(kLargestScore));
  }
  return left >= kWidth ? v : min(v, load_floats(kEdge + kWidth - left));
}

// The scores, of which the largest is returned.
template <bool kHasMask, bool kHasColumns>
QC_INLINE float store_scores(const softmax_s32_args& a) {
  Floats tops = set_floats(kNoScore);
  for (int64_t i = 0; i < a.num_columns; i += kWidth) {
    const Floats v = scores_of<kHasMask, kHasColumns>(a, i);
    store_floats(a.scores + i, v, kWidth);
    tops = max(tops, v);
  }
  return max_of(tops);
}

template <bool kHasMask>
QC_INLINE float store_scores(const softmax_s32_args& a) {
  return a.column_multipliers ? store_scores<kHasMask, true>(a) : store_scores<kHasMask, false>(a);
}

template <SoftmaxKind kKind>
QC_INLINE void store_codes(const softmax_s32_args& a, int64_t i, Ints weights) {
  const int64_t left = a.num_columns - i;
  const Ints middle = set_ints(128);
  if constexpr (kKind == SoftmaxKind::kWidePowers) {
    store_signed_bytes(a.low_codes + i, sub(and_ints(weights, set_ints(127)), middle), left);
    weights = shift_right_signed<7>(weights);
  }
  store_signed_bytes(a.codes + i, sub(weights, middle), left);
}

// The codes of all scores, of which `largest` is the largest; the sum of the weights.
template <SoftmaxKind kKind>
QC_INLINE int32_t store_row(const softmax_s32_args& a, float largest) {
  const Weights<kKind> weights_of(largest, a.levels);
  Ints totals = set_ints(0);
  const int64_t whole = a.num_columns / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Ints weights = weights_of(a.scores + i);
    totals = add(totals, weights);
    store_codes<kKind>(a, i, weights);
  }
  if (whole < a.num_columns) {
    const Ints kept = load_ints(kEdgeBits + kWidth - (a.num_columns - whole));
    const Ints weights = and_ints(weights_of(a.scores + whole), kept);
    totals = add(totals, weights);
    store_codes<kKind>(a, whole, weights);
  }
  return sum_of(totals);
}

}  // namespace

void QC_ISA_NAME(softmax_s32)(softmax_s32_args& a) {
  const float largest = a.mask ? store_scores<true>(a) : store_scores<false>(a);
  a.total = 0;
  if (largest == kNoScore) {
    std::memset(a.codes, -128, static_cast<size_t>(a.num_columns));
    if (a.levels.is_wide()) std::memset(a.low_codes, -128, static_cast<size_t>(a.num_columns));
    return;
  }
  switch (a.levels.kind) {
    case SoftmaxKind::kUniform: a.total = store_row<SoftmaxKind::kUniform>(a, largest); break;
    case SoftmaxKind::kPowers: a.total = store_row<SoftmaxKind::kPowers>(a, largest); break;
    case SoftmaxKind::kWidePowers: a.total = store_row<SoftmaxKind::kWidePowers>(a, largest); break;
    case SoftmaxKind::kTwin: a.total = store_row<SoftmaxKind::kTwin>(a, largest); break;
  }
}

}  // namespace qcompile
