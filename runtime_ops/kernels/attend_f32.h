// SPDX-License-Identifier: Apache-2.0
// N32 for few rows, 16 numbers a step; QC_ISA_NAME as in elementwise.h.
#include <cmath>

#include "exp_codes.h"
#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

constexpr float kRounds = 12582912.0f;  // 1.5 · 2^23, as in softmax_s32.h

QC_INLINE Floats load_row(const float* x, int64_t count) {
  return as_floats(load_ints(reinterpret_cast<const int32_t*>(x), count));
}

QC_INLINE float product(const float* a, const float* b, int64_t count) {
  Floats sum = set_floats(0);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) sum = fmadd(load_floats(a + i), load_floats(b + i), sum);
  if (i < count) sum = fmadd(load_row(a + i, count - i), load_row(b + i, count - i), sum);
  return sum_of(sum);
}

// The scores, of which the largest is returned; NaN where a product is not finite.
QC_INLINE float find_scores(const attend_f32_args& a) {
  float largest = kNoScore, lost = 0;
  for (int64_t s = 0; s < a.num_keys; ++s) {
    const float sum = product(a.q, a.k + s * a.k_step, a.depth);
    lost += sum * 0.0f;
    float v = sum * a.multiplier;
    if (a.mask) v += a.mask[s * a.mask_step];
    v = v > kNoScore ? v : kNoScore;  // NaN, too
    v = v < kLargestScore ? v : kLargestScore;
    a.scores[s] = v;
    largest = v > largest ? v : largest;
  }
  return lost == 0 ? largest : NAN;
}

// exp of what each score is below the largest, in its place; their sum.
QC_INLINE float exponentials(const attend_f32_args& a, float largest) {
  const int64_t end = ceil_div(a.num_keys, 16) * 16;
  for (int64_t s = a.num_keys; s < end; ++s) a.scores[s] = kNoScore;
  const Floats magic = set_floats(kRounds), one = set_floats(1.0f);
  Floats total = set_floats(0);
  for (int64_t s = 0; s < end; s += 16) {
    const Floats below = sub(load_floats(a.scores + s), set_floats(largest));
    const Floats steps = max(set_floats(kLeastPower), mul(below, set_floats(kLog2E)));
    const Floats shifted = add(steps, magic);
    const Floats f = sub(steps, sub(shifted, magic));
    Floats power = fmadd(set_floats(kPower[3]), f, set_floats(kPower[2]));
    power = fmadd(power, f, set_floats(kPower[1]));
    power = fmadd(power, f, set_floats(kPower[0]));
    power = fmadd(power, f, one);
    const Floats scaled = as_floats(add(as_ints(power), shift_left<23>(as_ints(shifted))));
    const Floats kept = max(set_floats(0), sub(scaled, set_floats(kLeastExp)));
    store_floats(a.scores + s, kept, 16);
    total = add(total, kept);
  }
  return sum_of(total);
}

// Values by their weights; an infinite result becomes NaN, as it is where codes are multiplied.
template <int kVectors>
QC_INLINE void weigh(const attend_f32_args& a, int64_t first, float share) {
  Floats sums[kVectors];
  unroll<kVectors>(QC_UNROLLED(i) { sums[i] = set_floats(0); });
  const int64_t left = a.width - first;
  const float* v = a.v + first;
  for (int64_t s = 0; s < a.num_keys; ++s, v += a.v_step) {
    const Floats weight = set_floats(a.scores[s]);
    unroll<kVectors>(QC_UNROLLED(i) {
      const Floats x = kVectors > 1 ? load_floats(v + 16 * i) : load_row(v, left);
      sums[i] = fmadd(weight, x, sums[i]);
    });
  }
  unroll<kVectors>(QC_UNROLLED(i) {
    const Floats y = mul(sums[i], set_floats(share));
    store_floats(a.y + first + 16 * i, fmadd(y, set_floats(0), y), left - 16 * i);
  });
}

}  // namespace

void QC_ISA_NAME(attend_f32)(attend_f32_args& a) {
  const float largest = find_scores(a);
  const float total = largest > kNoScore ? exponentials(a, largest) : 0;
  const float share = largest != largest ? largest : total > 0 ? 1.0f / total : 0;
  if (!(total > 0)) {  // nothing is seen, or what is seen is no number
    for (int64_t i = 0; i < a.width; ++i) a.y[i] = share;
    return;
  }
  int64_t i = 0;
  for (; i + 64 <= a.width; i += 64) weigh<4>(a, i, share);
  for (; i < a.width; i += 16) weigh<1>(a, i, share);
}

}  // namespace qcompile
