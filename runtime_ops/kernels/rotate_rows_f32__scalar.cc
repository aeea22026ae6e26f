// SPDX-License-Identifier: Apache-2.0
// The literal reading of N42.
#include <cmath>

#include "kernels.h"

namespace qcompile {
namespace {

void transform(float* y, int64_t n, float factor) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t first = 0; first < n; first += 2 * half) {
      float* __restrict__ low = y + first;
      float* __restrict__ high = y + first + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

}  // namespace

void rotate_rows_f32__scalar(rotate_rows_f32_args& a) {
  const float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.block)));
  for (int64_t m = 0; m < a.num_rows; ++m) {
    const float* x = a.x + m * a.num_columns;
    float* y = a.y + m * a.stride;
    for (int64_t k = 0; k < a.num_columns; ++k) y[k] = x[k] * a.signs[k];
    int64_t first = 0;
    for (; first + a.block <= a.num_columns; first += a.block) transform(y + first, a.block, factor);
    if (first == a.num_columns) continue;
    y += a.num_columns - a.block;
    for (int64_t i = 0; i < a.block; ++i) y[i] *= a.signs[a.num_columns + i];
    transform(y, a.block, factor);
  }
}

}  // namespace qcompile
