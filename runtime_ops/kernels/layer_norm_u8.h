// SPDX-License-Identifier: Apache-2.0
// N28. Plain loops that the compiler vectorizes; QC_ISA_NAME as in elementwise.h.
#include "epilogue.h"

namespace qcompile {

namespace {

struct Sums {
  int64_t codes, squares;
};

Sums sums_of(const uint8_t* __restrict__ x, int64_t count) {
  constexpr int64_t kAtOnce = 32768;  // 255^2 * 32768 < 2^31
  Sums sums{0, 0};
  for (int64_t first = 0; first < count; first += kAtOnce) {
    const int64_t left = count - first, here = left < kAtOnce ? left : kAtOnce;
    int32_t codes = 0, squares = 0;
    for (int64_t i = first; i < first + here; ++i) {
      codes += x[i];
      squares += x[i] * x[i];
    }
    sums.codes += codes;
    sums.squares += squares;
  }
  return sums;
}

}  // namespace

void QC_ISA_NAME(layer_norm_u8)(layer_norm_u8_args& a) {
  const float* __restrict__ gamma = a.gamma;
  const float* __restrict__ beta = a.beta;
  const int32_t zero_point = a.y_zero_point, y_min = a.y_min, y_max = a.y_max;
  const int64_t count = a.num_columns, point = a.x_zero_point;
  const int32_t k = static_cast<int32_t>(count);
  const double epsilon = static_cast<double>(a.epsilon) * static_cast<double>(count * count);
  for (int64_t m = 0; m < a.num_rows; ++m) {
    const uint8_t* __restrict__ x = a.x + m * count;
    uint8_t* __restrict__ y = a.y + m * count;
    // Of K <= 2^23 codes: the products below are at most 2^46 * 255^2 < 2^63.
    const Sums sums = sums_of(x, count);
    const int64_t spread =
        a.is_centred ? count * sums.squares - sums.codes * sums.codes
                     : count * (sums.squares - 2 * point * sums.codes + count * point * point);
    const int32_t centre = static_cast<int32_t>(a.is_centred ? sums.codes : count * point);
    const double root = std::sqrt(static_cast<double>(spread) + epsilon);
    const float inverse = root > 0 ? static_cast<float>(1.0 / root) : 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float normal = static_cast<float>(k * x[i] - centre) * inverse;
      const float v = normal * gamma[i] + beta[i];
      y[i] = static_cast<uint8_t>(code_of(v, zero_point, y_min, y_max));
    }
  }
}

}  // namespace qcompile
