// SPDX-License-Identifier: Apache-2.0
// Signs and the fast Walsh-Hadamard transform of blocks of rows, N42: each sum is one float of the
// scalar kernel, in the same order, so that the results are equal. QC_ISA_NAME as in elementwise.h.
#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

constexpr int kAtOnce = kHasManySums ? 8 : 4;  // vectors of a block whose sums stay in registers

// Lanes that are kApart apart become their sum and their difference: swapped + (+-1) * v is exact
// but for the rounding of the sum itself.
template <int kApart>
QC_INLINE Floats mix_lanes(Floats v) {
  alignas(64) static constexpr float kSigns[4][16] = {
      {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
      {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
      {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
      {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};
  constexpr int kRow = kApart == 1 ? 0 : kApart == 2 ? 1 : kApart == 4 ? 2 : 3;
  return fmadd(v, load_floats(kSigns[kRow]), swap_lanes<kApart>(v));
}

// Sums and differences of kCount vectors that are 1, 2, ... kCount / 2 apart.
template <int kCount>
QC_INLINE void mix_vectors(Floats (&v)[kCount]) {
#pragma GCC unroll 8
  for (int apart = 1; apart < kCount; apart *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      if (i & apart) continue;
      const Floats a = v[i], b = v[i + apart];
      v[i] = add(a, b);
      v[i + apart] = sub(a, b);
    }
  }
}

// 16 * kCount elements: every stage inside them.
template <int kCount>
QC_INLINE void transform_near(float* y, Floats factor) {
  Floats v[kCount];
  unroll<kCount>(QC_UNROLLED(i) {
    v[i] = mix_lanes<8>(mix_lanes<4>(mix_lanes<2>(mix_lanes<1>(load_floats(y + 16 * i)))));
  });
  mix_vectors(v);
  unroll<kCount>(QC_UNROLLED(i) { store_floats(y + 16 * i, mul(v[i], factor), 16); });
}

// The next stages: elements that are half, 2 * half, ... kCount / 2 * half apart.
template <int kCount>
QC_INLINE void transform_far(float* y, int64_t n, int64_t half, Floats factor) {
  for (int64_t first = 0; first < n; first += kCount * half) {
    for (int64_t j = first; j < first + half; j += 16) {
      Floats v[kCount];
      unroll<kCount>(QC_UNROLLED(i) { v[i] = load_floats(y + j + i * half); });
      mix_vectors(v);
      unroll<kCount>(QC_UNROLLED(i) { store_floats(y + j + i * half, mul(v[i], factor), 16); });
    }
  }
}

// Of fewer than 16 elements.
inline void transform_few(float* y, int64_t n, float factor) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t i = 0; i < n; ++i) {
      if (i & half) continue;
      const float a = y[i], b = y[i + half];
      y[i] = a + b;
      y[i + half] = a - b;
    }
  }
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

QC_INLINE void transform(float* y, int64_t n, float scale) {
  const Floats factor = set_floats(scale), one = set_floats(1.0f);
  if (n < 16) return transform_few(y, n, scale);
  if (n == 16) return transform_near<1>(y, factor);
  if (n == 32) return transform_near<2>(y, factor);
  if (n == 64) return transform_near<4>(y, factor);
  int64_t half = 16 * kAtOnce;
  if (n == half) return transform_near<kAtOnce>(y, factor);
  for (int64_t first = 0; first < n; first += half) transform_near<kAtOnce>(y + first, one);
  for (; half * kAtOnce < n; half *= kAtOnce) transform_far<kAtOnce>(y, n, half, one);
  if (half * kAtOnce == n) return transform_far<kAtOnce>(y, n, half, factor);
  if (half * 4 == n) return transform_far<4>(y, n, half, factor);
  transform_far<2>(y, n, half, factor);
}

QC_INLINE void multiply(const float* x, const float* signs, int64_t count, float* y) {
  const int32_t* words = reinterpret_cast<const int32_t*>(x);
  const int32_t* others = reinterpret_cast<const int32_t*>(signs);
  for (int64_t i = 0; i < count; i += 16) {
    const Floats v = as_floats(load_ints(words + i, count - i));
    store_floats(y + i, mul(v, as_floats(load_ints(others + i, count - i))), count - i);
  }
}

}  // namespace

void QC_ISA_NAME(rotate_rows_f32)(rotate_rows_f32_args& a) {
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.block)));
  const int64_t K = a.num_columns;
  for (int64_t m = 0; m < a.num_rows; ++m) {
    multiply(a.x + m * K, a.signs, K, a.y + m * a.stride);
  }
  // A block of all rows before the next one: loads that cross what was just stored would wait.
  for (int64_t first = 0; first < K; first += a.block) {
    const bool overlaps = first + a.block > K;
    for (int64_t m = 0; m < a.num_rows; ++m) {
      float* y = a.y + m * a.stride + (overlaps ? K - a.block : first);
      if (overlaps) multiply(y, a.signs + K, a.block, y);
      transform(y, a.block, scale);
    }
  }
}

}  // namespace qcompile
