// SPDX-License-Identifier: Apache-2.0
// N2 of floats, 16 at a time.
#pragma once

#include "simd.h"

namespace qcompile {
namespace {

// rint(x / scale), clamped. The product with 1 / scale is within 2^-15 of the quotient where that
// is at most 128, so rint of the two can differ only that near to a tie, and there the division
// decides. A scale whose reciprocal is no normal number always divides.
struct Quantizer {
  Floats scale, inverse, low, high, near_tie;
  Quantizer(float s, int32_t limit) : Quantizer(set_floats(s), set_floats(1.0f / s), s, limit) {}
  // A scale in every lane; `largest` of them.
  Quantizer(Floats s, Floats inverses, float largest, int32_t limit)
      : scale(s), inverse(inverses), low(set_floats(static_cast<float>(-limit))),
        high(set_floats(static_cast<float>(limit))),
        near_tie(set_floats(largest < 1e30f ? 0.5f - 0x1p-14f : -1.0f)) {}
  QC_INLINE Ints operator()(Floats x) const {
    const Floats product = mul(x, inverse);
    Floats v = round(product);
    if (__builtin_expect(any_above(abs(sub(product, v)), near_tie), 0)) v = round(div(x, scale));
    return round_to_ints(min(high, max(low, v)));
  }
};

}  // namespace
}  // namespace qcompile
