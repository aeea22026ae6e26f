// SPDX-License-Identifier: Apache-2.0
// N30 and N32, 16 scores a step; QC_ISA_NAME as in elementwise.h. No FMA: every product is rounded.
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

QC_INLINE Ints codes_of(Floats score, Floats top) {
  const Floats lowest = set_floats(kLowestPower), magic = set_floats(kMagic);
  const Floats steps = max(lowest, mul(sub(score, top), set_floats(kLog2E)));
  const Floats shifted = add(steps, magic);
  const Floats f = sub(steps, sub(shifted, magic));
  Floats power = add(mul(set_floats(kPower[3]), f), set_floats(kPower[2]));
  power = add(mul(power, f), set_floats(kPower[1]));
  power = add(mul(power, f), set_floats(kPower[0]));
  power = add(mul(power, f), set_floats(1.0f));
  // The integer, of -15 ... 0, added to the exponent; no bit of kMagic is left of the shift.
  const Ints scaled = add(as_ints(mul(power, set_floats(255.0f))), shift_left<23>(as_ints(shifted)));
  return sub(as_ints(add(as_floats(scaled), magic)), as_ints(magic));
}

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

}  // namespace

void QC_ISA_NAME(softmax_s32)(softmax_s32_args& a) {
  const float largest = a.mask ? store_scores<true>(a) : store_scores<false>(a);
  a.total = 0;
  if (largest == kNoScore) {
    std::memset(a.codes, -128, static_cast<size_t>(a.num_columns));
    return;
  }
  const Floats top = set_floats(largest);
  Ints totals = set_ints(0);
  const int64_t whole = a.num_columns / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Ints codes = codes_of(load_floats(a.scores + i), top);
    totals = add(totals, codes);
    store_signed_bytes(a.codes + i, sub(codes, set_ints(128)), kWidth);
  }
  if (whole < a.num_columns) {
    const int64_t left = a.num_columns - whole;
    const Ints kept = load_ints(kEdgeBits + kWidth - left);
    const Ints codes = bit_and(codes_of(load_floats(a.scores + whole), top), kept);
    totals = add(totals, codes);
    store_signed_bytes(a.codes + whole, sub(codes, set_ints(128)), left);
  }
  a.total = sum_of(totals);
}

}  // namespace qcompile
