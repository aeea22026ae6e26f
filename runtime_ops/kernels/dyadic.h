// SPDX-License-Identifier: Apache-2.0
// Dyadic multipliers m * 2^-e: N12, N17, N18, N19. Plain loops that the compiler vectorizes. Static
// for the reason given in weight_elements.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace qcompile {
namespace {

constexpr int kMaxExponent = 62;

struct Dyadic {
  int32_t m;
  int32_t e;
};

// The nearest to the ratio with e given; |ratio| * 2^e < 2^31.
inline int32_t dyadic_factor(double ratio, int32_t e) {
  return static_cast<int32_t>(std::nearbyint(std::ldexp(ratio, e)));
}

// The nearest with 2^30 <= |m| < 2^31, or e = 62; |ratio| < 2^29.
inline Dyadic dyadic(double ratio) {
  int power;
  std::frexp(ratio, &power);
  const int32_t e = 31 - power < kMaxExponent ? 31 - power : kMaxExponent;
  // Rounding may reach 2^31, which is half of it with one less in e.
  const double m = std::nearbyint(std::ldexp(ratio, e));
  return std::fabs(m) < 2147483648.0 ? Dyadic{static_cast<int32_t>(m), e}
                                     : Dyadic{static_cast<int32_t>(m / 2), e - 1};
}

// N12: |acc| <= 2^31, |m| < 2^31, 1 <= e <= 62. The product is at most 2^62 and the half 2^61, so
// nothing overflows; >> of a negative number is arithmetic on every compiler in use.
inline int64_t requantize_dyadic(int32_t acc, int32_t m, int e) {
  return (static_cast<int64_t>(acc) * m + (int64_t{1} << (e - 1))) >> e;
}

inline int32_t clamp_code(int64_t v, int32_t y_min, int32_t y_max) {
  v = v < y_min ? y_min : v;
  return static_cast<int32_t>(v > y_max ? y_max : v);
}

inline bool is_dyadic(Output output) {
  return output == Output::kDyadic || output == Output::kRescaled;
}

// The numbers of `count` sums: codes as int32 (N12), or N17 with zero_point 0. With a count that the
// compiler knows this becomes whole vectors.
inline void rescale(const int32_t* __restrict__ totals, int64_t count,
                    const int32_t* __restrict__ m, const int32_t* __restrict__ e,
                    int32_t zero_point, int32_t y_min, int32_t y_max, int32_t* __restrict__ out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = clamp_code(requantize_dyadic(totals[i], m[i], e[i]) + zero_point, y_min, y_max);
  }
}

// Ends `count` <= 16 sums, of outputs n on, at element `at` of y; N12, N17.
inline void finish_dyadic(const int32_t* totals, int64_t count, const Epilogue& p, int64_t n,
                          void* y, int64_t at) {
  alignas(64) int32_t out[kTile];
  const int32_t *m = p.dyadic_m + n, *e = p.dyadic_e + n;
  const int32_t zero_point = p.output == Output::kDyadic ? p.y_zero_point : 0;
  if (count == kTile) {
    rescale(totals, kTile, m, e, zero_point, p.y_min, p.y_max, out);
  } else {
    rescale(totals, count, m, e, zero_point, p.y_min, p.y_max, out);
  }
  if (p.output == Output::kRescaled) {
    std::memcpy(static_cast<int32_t*>(y) + at, out, static_cast<size_t>(count) * 4);
    return;
  }
  uint8_t* codes = static_cast<uint8_t*>(y) + at;
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(out[i]);
}

}  // namespace
}  // namespace qcompile
