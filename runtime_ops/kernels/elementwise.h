// SPDX-License-Identifier: Apache-2.0
// The kernels that walk arrays once: plain loops that the compiler vectorizes for the flags of the
// file that includes this one. QC_ISA_NAME(kernel) is kernel__<isa>.
#include "dyadic.h"
#include "epilogue.h"
#ifdef __AVX512VNNI__
#include "simd.h"
#endif

namespace qcompile {

void QC_ISA_NAME(centre_u8_s8)(centre_u8_s8_args& a) {
  const int64_t count = a.count;
  const uint8_t* __restrict__ x = a.x;
  int8_t* __restrict__ y = a.y;
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<int8_t>(x[i] ^ 0x80);
}

namespace {

// With a_step and b_step known, so that the loop vectorizes.
template <int kStepA, int kStepB>
void add_loop(const add_u8_u8_args& a) {
  const uint8_t* __restrict__ left = a.a;
  const uint8_t* __restrict__ right = a.b;
  uint8_t* __restrict__ y = a.y;
  const float a_multiplier = a.a_multiplier, b_multiplier = a.b_multiplier;
  const int32_t a_zero_point = a.a_zero_point, b_zero_point = a.b_zero_point;
  const int32_t zero_point = a.y_zero_point, y_min = a.y_min, y_max = a.y_max;
  const int64_t count = a.count;
  for (int64_t i = 0; i < count; ++i) {
    const float scaled_a = static_cast<float>(left[i * kStepA] - a_zero_point) * a_multiplier;
    const float scaled_b = static_cast<float>(right[i * kStepB] - b_zero_point) * b_multiplier;
    y[i] = static_cast<uint8_t>(code_of(scaled_a + scaled_b, zero_point, y_min, y_max));
  }
}

#ifdef QC_HAS_PACK
// add_loop<1, 1> of whole vectors of codes, which are packed four vectors at a time (gcc packs
// each by itself); returns how many.
int64_t add_vectors(const add_u8_u8_args& a) {
  const float greatest = std::fabs(a.a_multiplier) + std::fabs(a.b_multiplier);
  if (!(255 * greatest < float{1 << 30})) return 0;  // so that every sum is an int32
  const CodePacker pack(a.y_zero_point, a.y_min, a.y_max);
  const Floats a_multiplier = set_floats(a.a_multiplier), b_multiplier = set_floats(a.b_multiplier);
  const Ints a_zero = set_ints(a.a_zero_point), b_zero = set_ints(a.b_zero_point);
  int64_t i = 0;
  for (; i + 64 <= a.count; i += 64) {
    Ints codes[4];
    unroll<4>(QC_UNROLLED(v) {
      const Ints left = sub(widen(a.a + i + 16 * v), a_zero);
      const Ints right = sub(widen(a.b + i + 16 * v), b_zero);
      codes[v] = round_to_ints(
          add(mul(to_floats(left), a_multiplier), mul(to_floats(right), b_multiplier)));
    });
    store_bytes(a.y + i, pack(codes));
  }
  return i;
}
#endif

// N18. Steps are 0 or 1; centred codes times 31 bits, twice, are far below 2^63.
void add_dyadic(const add_u8_u8_args& a) {
  const int64_t a_m = a.a_m, b_m = a.b_m, half = int64_t{1} << (a.e - 1);
  const int64_t a_step = a.a_step, b_step = a.b_step, count = a.count;
  const int32_t e = a.e, zero_point = a.y_zero_point, y_min = a.y_min, y_max = a.y_max;
  const uint8_t *__restrict__ left = a.a, *__restrict__ right = a.b;
  uint8_t* __restrict__ y = a.y;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t sum = (left[i * a_step] - a.a_zero_point) * a_m +
                        (right[i * b_step] - a.b_zero_point) * b_m;
    y[i] = static_cast<uint8_t>(clamp_code(((sum + half) >> e) + zero_point, y_min, y_max));
  }
}

void mul_dyadic(const mul_u8_u8_args& a) {
  const int32_t m = a.a_m, e = a.e, zero_point = a.y_zero_point, y_min = a.y_min, y_max = a.y_max;
  for (int64_t i = 0; i < a.count; ++i) {
    const int32_t product =
        (a.a[i * a.a_step] - a.a_zero_point) * (a.b[i * a.b_step] - a.b_zero_point);
    const int64_t v = requantize_dyadic(product, m, e) + zero_point;
    a.y[i] = static_cast<uint8_t>(clamp_code(v, y_min, y_max));
  }
}

// As add_loop; the product of two centred codes is exact.
template <int kStepA, int kStepB>
void mul_loop(const mul_u8_u8_args& a) {
  const uint8_t* __restrict__ left = a.a;
  const uint8_t* __restrict__ right = a.b;
  uint8_t* __restrict__ y = a.y;
  const float multiplier = a.a_multiplier;
  const int32_t a_zero_point = a.a_zero_point, b_zero_point = a.b_zero_point;
  const int32_t zero_point = a.y_zero_point, y_min = a.y_min, y_max = a.y_max;
  const int64_t count = a.count;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t product = (left[i * kStepA] - a_zero_point) * (right[i * kStepB] - b_zero_point);
    const float scaled = static_cast<float>(product) * multiplier;
    y[i] = static_cast<uint8_t>(code_of(scaled, zero_point, y_min, y_max));
  }
}

void max_pool(const pool_u8_args& a) {
  const int64_t channels = a.num_channels;
  uint8_t* __restrict__ y = a.y;
  if (a.num_rows == 0) {  // padding alone (N22)
    std::memset(y, 0, static_cast<size_t>(channels));
    return;
  }
  std::memcpy(y, a.x, static_cast<size_t>(channels));
  for (int64_t i = 0; i < a.num_rows; ++i) {
    for (int64_t j = 0; j < a.num_columns; ++j) {
      const uint8_t* __restrict__ x = a.x + i * a.row_stride + j * a.column_stride;
      for (int64_t c = 0; c < channels; ++c) y[c] = x[c] > y[c] ? x[c] : y[c];
    }
  }
}

void average_pool(const pool_u8_args& a) {
  constexpr int64_t kChannels = 64;  // sums that stay in registers or the first cache
  const int32_t taps = static_cast<int32_t>(a.num_rows * a.num_columns);
  for (int64_t first = 0; first < a.num_channels; first += kChannels) {
    const int64_t left = a.num_channels - first, channels = left < kChannels ? left : kChannels;
    int32_t sums[kChannels] = {};
    for (int64_t i = 0; i < a.num_rows; ++i) {
      for (int64_t j = 0; j < a.num_columns; ++j) {
        const uint8_t* x = a.x + i * a.row_stride + j * a.column_stride + first;
        for (int64_t c = 0; c < channels; ++c) sums[c] += x[c];
      }
    }
    if (a.is_dyadic) {  // N19
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t v = requantize_dyadic(sums[c] - taps * a.x_zero_point, a.m, a.e);
        a.y[first + c] = static_cast<uint8_t>(clamp_code(v + a.y_zero_point, a.y_min, a.y_max));
      }
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const float v = static_cast<float>(sums[c] - taps * a.x_zero_point) * a.multiplier;
      a.y[first + c] = static_cast<uint8_t>(code_of(v, a.y_zero_point, a.y_min, a.y_max));
    }
  }
}

}  // namespace

void QC_ISA_NAME(add_u8_u8)(add_u8_u8_args& a) {
  if (a.is_dyadic) return add_dyadic(a);
#ifdef QC_HAS_PACK
  if (a.a_step && a.b_step) {
    const int64_t done = add_vectors(a);
    a.a += done;
    a.b += done;
    a.y += done;
    a.count -= done;
  }
#endif
  if (a.a_step && a.b_step) return add_loop<1, 1>(a);
  if (a.a_step) return add_loop<1, 0>(a);
  if (a.b_step) return add_loop<0, 1>(a);
  add_loop<0, 0>(a);
}

void QC_ISA_NAME(mul_u8_u8)(mul_u8_u8_args& a) {
  if (a.is_dyadic) return mul_dyadic(a);
  if (a.a_step && a.b_step) return mul_loop<1, 1>(a);
  if (a.a_step) return mul_loop<1, 0>(a);
  if (a.b_step) return mul_loop<0, 1>(a);
  mul_loop<0, 0>(a);
}

void QC_ISA_NAME(interpolate_u8)(interpolate_u8_args& a) {
  const uint8_t *__restrict__ p = a.corners[0], *__restrict__ q = a.corners[1];
  const uint8_t *__restrict__ r = a.corners[2], *__restrict__ s = a.corners[3];
  uint8_t* __restrict__ y = a.y;
  const float left = a.column_weights[0], right = a.column_weights[1];
  const float up = a.row_weights[0], down = a.row_weights[1], multiplier = a.multiplier;
  const int32_t x_zero_point = a.x_zero_point, zero_point = a.y_zero_point;
  const int32_t y_min = a.y_min, y_max = a.y_max;
  const int64_t count = a.count;
  for (int64_t i = 0; i < count; ++i) {
    const float top = static_cast<float>(p[i] - x_zero_point) * left +
                      static_cast<float>(q[i] - x_zero_point) * right;
    const float bottom = static_cast<float>(r[i] - x_zero_point) * left +
                         static_cast<float>(s[i] - x_zero_point) * right;
    const float scaled = (top * up + bottom * down) * multiplier;
    y[i] = static_cast<uint8_t>(code_of(scaled, zero_point, y_min, y_max));
  }
}

void QC_ISA_NAME(pool_u8)(pool_u8_args& a) {
  if (a.is_average) return average_pool(a);
  max_pool(a);
}

}  // namespace qcompile
