// SPDX-License-Identifier: Apache-2.0
// The AVX-512 and AVX-VNNI intrinsics that the kernels use, for a processor with AVX2 alone: what
// Intel's manual says of each, a lane at a time where that is plainest. `make emulate` includes it
// before every AVX-512 and AVX-VNNI file, so that their numbers are tested on any x86-64.
// It says nothing about speed, nor that the compiler's own header and the processor do the same.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#define QC_EMULATED
#ifdef QC_EMULATE_avx512vbmi2
#define __AVX512VNNI__ 1
#define __AVX512VBMI__ 1
#define __AVX512VBMI2__ 1
#elif defined(QC_EMULATE_avx512vnni)
#define __AVX512VNNI__ 1
#else
#define __AVXVNNI__ 1
#endif

namespace {

template <class T>
struct Lanes {
  static constexpr int kCount = 64 / sizeof(T);
  T lane[kCount];
  template <class V>
  explicit Lanes(const V& v) {
    static_assert(sizeof(V) == 64);
    std::memcpy(lane, &v, 64);
  }
  Lanes() : lane{} {}
  T& operator[](int i) { return lane[i]; }
  operator __m512i() const { return as<__m512i>(); }
  template <class V>
  V as() const {
    V v;
    std::memcpy(&v, lane, 64);
    return v;
  }
};

template <class T, class F>
inline __m512i each(F f) {
  Lanes<T> out;
  for (int i = 0; i < Lanes<T>::kCount; ++i) out[i] = static_cast<T>(f(i));
  return out;
}

// Floats take the way of AVX, whose rounding and NaN are those of AVX-512.
struct Halves {
  __m256 low, high;
  explicit Halves(const __m512& v) {
    std::memcpy(&low, &v, 32);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  }
  Halves(__m256 l, __m256 h) : low(l), high(h) {}
  __m512 joined() const {
    __m512 v;
    std::memcpy(&v, &low, 32);
    std::memcpy(reinterpret_cast<char*>(&v) + 32, &high, 32);
    return v;
  }
};
template <class F>
inline __m512 halves(const __m512& a, const __m512& b, F f) {
  const Halves x(a), y(b);
  return Halves(f(x.low, y.low), f(x.high, y.high)).joined();
}
template <class T>
inline T loaded(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// A masked lane is neither read nor written.
template <class T>
inline __m512i masked_load(uint64_t mask, const void* p) {
  const char* const from = static_cast<const char*>(p);
  return each<T>([&](int i) { return mask >> i & 1 ? loaded<T>(from + i * sizeof(T)) : T{0}; });
}
template <class T, class V>
inline void masked_store(void* p, uint64_t mask, const V& v) {
  Lanes<T> lanes(v);
  for (int i = 0; i < Lanes<T>::kCount; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<char*>(p) + i * sizeof(T), &lanes[i], sizeof(T));
  }
}
template <class T, class F>
inline uint64_t mask_of(const __m512i& a, const __m512i& b, F f) {
  Lanes<T> x(a), y(b);
  uint64_t mask = 0;
  for (int i = 0; i < Lanes<T>::kCount; ++i) mask |= uint64_t{f(x[i], y[i])} << i;
  return mask;
}
// Lane 0 ... of each 128-bit part: the even ones of a, the odd ones of b, from `first` on.
template <class T>
inline __m512i unpacked(const __m512i& a, const __m512i& b, int first) {
  constexpr int kPart = 16 / sizeof(T);
  Lanes<T> x(a), y(b);
  return each<T>([&](int i) {
    const int from = i / kPart * kPart + first + i % kPart / 2;
    return i % 2 ? y[from] : x[from];
  });
}
// Two 128-bit parts of a, then two of b, each by two bits of the selector.
template <int kSelector>
inline __m512i picked_parts(const __m512i& a, const __m512i& b) {
  Lanes<int32_t> x(a), y(b);
  return each<int32_t>([&](int i) {
    return (i < 8 ? x : y)[(kSelector >> 2 * (i / 4) & 3) * 4 + i % 4];
  });
}
#define _mm512_shuffle_i32x4(a, b, selector) picked_parts<selector>(a, b)
// Half of each 128-bit part from a, half from b, in lanes half as wide that saturate.
template <class From, class To>
inline __m512i packed(const __m512i& a, const __m512i& b) {
  constexpr int kPart = 16 / sizeof(To), kHalf = kPart / 2;
  Lanes<From> x(a), y(b);
  return each<To>([&](int i) {
    const int from = i / kPart * kHalf + i % kHalf;
    const int64_t v = i % kPart < kHalf ? x[from] : y[from];
    const int64_t low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return v < low ? low : v > high ? high : v;
  });
}
template <class T, class F>
inline __m512i of_lanes(const __m512i& a, const __m512i& b, F f) {
  Lanes<T> x(a), y(b);
  return each<T>([&](int i) { return f(x[i], y[i]); });
}
inline __m512i emulated_packs_epi32(const __m512i& a, const __m512i& b) {
  return packed<int32_t, int16_t>(a, b);
}
inline __m512i emulated_packus_epi16(const __m512i& a, const __m512i& b) {
  return packed<int16_t, uint8_t>(a, b);
}
inline __m512i emulated_adds_epi16(const __m512i& a, const __m512i& b) {
  return of_lanes<int16_t>(a, b, [](int x, int y) {
    return x + y < -32768 ? -32768 : x + y > 32767 ? 32767 : x + y;
  });
}
inline __m512i emulated_min_epu8(const __m512i& a, const __m512i& b) {
  return of_lanes<uint8_t>(a, b, [](int x, int y) { return x < y ? x : y; });
}
inline __m512i emulated_max_epu8(const __m512i& a, const __m512i& b) {
  return of_lanes<uint8_t>(a, b, [](int x, int y) { return x > y ? x : y; });
}
inline __m512i emulated_permutexvar_epi32(const __m512i& index, const __m512i& v) {
  Lanes<int32_t> from(index), x(v);
  return each<int32_t>([&](int i) { return x[from[i] & 15]; });
}
inline __m512i emulated_permutexvar_epi64(const __m512i& index, const __m512i& v) {
  Lanes<int64_t> from(index), x(v);
  return each<int64_t>([&](int i) { return x[from[i] & 7]; });
}
inline __m512i emulated_permutexvar_epi8(const __m512i& index, const __m512i& v) {
  Lanes<uint8_t> at(index), from(v);
  return each<uint8_t>([&](int i) { return from[at[i] & 63]; });
}
inline __m512i emulated_permutex2var_epi8(const __m512i& a, const __m512i& index,
                                          const __m512i& b) {
  Lanes<uint8_t> at(index), first(a), second(b);
  return each<uint8_t>([&](int i) { return (at[i] & 64 ? second : first)[at[i] & 63]; });
}
inline uint64_t emulated_movepi8_mask(const __m512i& v) {
  Lanes<uint8_t> x(v);
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(x[i] >> 7) << i;
  return mask;
}
// Bit i of the table is the result where the bits of a, b and c are i.
inline __m512i emulated_ternarylogic_epi32(const __m512i& a, const __m512i& b, const __m512i& c,
                                           int table) {
  Lanes<uint32_t> x(a), y(b), z(c);
  return each<uint32_t>([&](int i) {
    uint32_t bits = 0;
    for (int j = 0; j < 32; ++j) {
      const uint32_t at = (x[i] >> j & 1) << 2 | (y[i] >> j & 1) << 1 | (z[i] >> j & 1);
      bits |= (static_cast<uint32_t>(table) >> at & 1) << j;
    }
    return bits;
  });
}
inline __m512i emulated_mask_expand_epi8(const __m512i& from, uint64_t mask, const __m512i& v) {
  Lanes<uint8_t> old(from), x(v);
  int next = 0;
  return each<uint8_t>([&](int i) { return mask >> i & 1 ? x[next++] : old[i]; });
}
inline __m512i zero_extended(const __m256i& v) {
  Lanes<uint8_t> out;
  std::memcpy(out.lane, &v, 32);
  return out;
}
template <class... T>
inline __m512i listed64(T... values) {
  const int64_t lanes[8] = {values...};
  return loaded<__m512i>(lanes);
}
template <class... T>
inline __m512i listed(T... values) {
  const int32_t lanes[16] = {values...};
  return loaded<__m512i>(lanes);
}
inline __m512i dot_bytes(const __m512i& acc, const __m512i& u, const __m512i& s) {
  Lanes<uint32_t> sums(acc);
  Lanes<uint8_t> x(u);
  Lanes<int8_t> y(s);
  for (int i = 0; i < 64; ++i) sums[i / 4] += static_cast<uint32_t>(x[i] * y[i]);
  return sums;
}
inline __m512i dot_words(const __m512i& acc, const __m512i& a, const __m512i& b) {
  Lanes<uint32_t> sums(acc);
  Lanes<int16_t> x(a), y(b);
  for (int i = 0; i < 32; ++i) sums[i / 2] += static_cast<uint32_t>(x[i] * y[i]);
  return sums;
}
inline __m256i dot_bytes256(__m256i acc, __m256i u, __m256i s) {
  uint8_t x[32];
  int8_t y[32];
  int32_t sums[8];
  std::memcpy(x, &u, 32);
  std::memcpy(y, &s, 32);
  std::memcpy(sums, &acc, 32);
  for (int i = 0; i < 32; ++i) sums[i / 4] += x[i] * y[i];
  return loaded<__m256i>(sums);
}
struct Quarter {
  int32_t lane[4];
};
template <class T>
inline __m512i widened(const __m128i& v) {
  T lanes[16];
  std::memcpy(lanes, &v, 16);
  return each<int32_t>([&](int i) { return lanes[i]; });
}
inline int32_t greatest(const __m512i& v) {
  Lanes<int32_t> x(v);
  int32_t most = x[0];
  for (int i = 1; i < 16; ++i) most = x[i] > most ? x[i] : most;
  return most;
}
inline int32_t total_of(const __m512i& v) {
  Lanes<uint32_t> x(v);
  uint32_t total = 0;
  for (int i = 0; i < 16; ++i) total += x[i];
  return static_cast<int32_t>(total);
}
inline float greatest_float(const __m512& v) {
  Lanes<float> x(v);
  float most = x[0];
  for (int i = 1; i < 16; ++i) most = x[i] > most ? x[i] : most;
  return most;
}
inline float float_sum(const __m512& v) {
  Lanes<float> x(v);
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += x[i];
  return sum;
}
inline __m512i shuffled(const __m512i& table, const __m512i& index) {
  Lanes<uint8_t> from(table), at(index);
  return each<uint8_t>(
      [&](int i) { return at[i] & 128 ? 0 : from[i / 16 * 16 + (at[i] & 15)]; });
}

#define QC_BINARY(name, type, expression)                            \
  inline __m512i emulated_##name(const __m512i& a, const __m512i& b) { \
    Lanes<type> x(a), y(b);                                          \
    return each<type>([&](int i) { return expression; });            \
  }
QC_BINARY(add_epi8, uint8_t, x[i] + y[i])
QC_BINARY(add_epi16, uint16_t, x[i] + y[i])
QC_BINARY(add_epi32, uint32_t, x[i] + y[i])
QC_BINARY(sub_epi32, uint32_t, x[i] - y[i])
QC_BINARY(mullo_epi32, uint32_t, x[i] * y[i])
QC_BINARY(max_epi32, int32_t, x[i] > y[i] ? x[i] : y[i])
QC_BINARY(min_epi32, int32_t, x[i] < y[i] ? x[i] : y[i])
QC_BINARY(and_si512, uint64_t, x[i] & y[i])
QC_BINARY(or_si512, uint64_t, x[i] | y[i])
QC_BINARY(xor_si512, uint64_t, x[i] ^ y[i])
#undef QC_BINARY

#define QC_FLOATS(name)                                                              \
  inline __m512 emulated_##name(const __m512& a, const __m512& b) {                  \
    return halves(a, b, [](__m256 x, __m256 y) { return _mm256_##name(x, y); });     \
  }
QC_FLOATS(add_ps)
QC_FLOATS(sub_ps)
QC_FLOATS(mul_ps)
QC_FLOATS(div_ps)
QC_FLOATS(min_ps)
QC_FLOATS(max_ps)
#undef QC_FLOATS

inline __m512 fused(const __m512& a, const __m512& b, const __m512& c) {
  const Halves x(a), y(b), z(c);
  return Halves(_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high))
      .joined();
}
template <class F>
inline __m512i to_ints(const __m512& v, F f) {
  const Halves x(v);
  const __m256i parts[2] = {f(x.low), f(x.high)};
  return loaded<__m512i>(parts);
}
inline __m512 to_floats_of(const __m512i& v) {
  __m256i parts[2];
  std::memcpy(parts, &v, 64);
  return Halves(_mm256_cvtepi32_ps(parts[0]), _mm256_cvtepi32_ps(parts[1])).joined();
}
inline __m512 of_halves(const __m256i& v) {
  return Halves(_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
                _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)))
      .joined();
}
inline uint16_t above(const __m512& a, const __m512& b) {
  const Halves x(a), y(b);
  return static_cast<uint16_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.low, y.low, _CMP_GT_OQ)) |
                               _mm256_movemask_ps(_mm256_cmp_ps(x.high, y.high, _CMP_GT_OQ)) << 8);
}
inline __m128i narrowed(const __m512i& v) {
  Lanes<int32_t> x(v);
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(x[i]);
  return loaded<__m128i>(bytes);
}
inline __m512 picked(const __m512i& index, const __m512& table) {
  Lanes<uint32_t> at(index), from(table);
  const __m512i v = each<uint32_t>([&](int i) { return from[at[i] & 15]; });
  return loaded<__m512>(&v);
}

}  // namespace

#define _cvtu64_mask64(mask) (mask)
#define _mm512_add_epi8 emulated_add_epi8
#define _mm512_add_epi16 emulated_add_epi16
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_sub_epi32 emulated_sub_epi32
#define _mm512_mullo_epi32 emulated_mullo_epi32
#define _mm512_max_epi32 emulated_max_epi32
#define _mm512_min_epi32 emulated_min_epi32
#define _mm512_and_si512 emulated_and_si512
#define _mm512_or_si512 emulated_or_si512
#define _mm512_xor_si512 emulated_xor_si512
#define _mm512_add_ps emulated_add_ps
#define _mm512_sub_ps emulated_sub_ps
#define _mm512_mul_ps emulated_mul_ps
#define _mm512_div_ps emulated_div_ps
#define _mm512_min_ps emulated_min_ps
#define _mm512_max_ps emulated_max_ps
#define _mm512_fmadd_ps fused
#define _mm512_abs_ps(v) loaded<__m512>(&static_cast<const __m512i&>( \
    each<uint32_t>([x = Lanes<uint32_t>(v)](int i) { return x.lane[i] & 0x7fffffff; })))
#define _mm512_roundscale_ps(v, how) \
  halves(v, v, [](__m256 x, __m256) { return _mm256_round_ps(x, how); })
#define _mm512_cvt_roundps_epi32(v, how)  /* to nearest, as MXCSR says */ \
  to_ints(v, [](__m256 x) { return _mm256_cvtps_epi32(x); })
#define _mm512_cvtepi32_ps to_floats_of
#define _mm512_cvtph_ps of_halves
#define _mm512_cmp_ps_mask(a, b, how) above(a, b)
#define _mm512_castsi512_ps(v) loaded<__m512>(&static_cast<const __m512i&>(v))
#define _mm512_castps_si512(v) loaded<__m512i>(&static_cast<const __m512&>(v))
// Lane i of each 128-bit part, and part i: two bits of the selector each; both operands are one.
template <int kSelector>
inline __m512 shuffled(const __m512& v, bool parts) {
  Lanes<float> x(v), out;
  for (int i = 0; i < 16; ++i) {
    out[i] = parts ? x[(kSelector >> 2 * (i / 4) & 3) * 4 + i % 4]
                   : x[i / 4 * 4 + (kSelector >> 2 * (i % 4) & 3)];
  }
  return out.as<__m512>();
}
#define _mm512_shuffle_ps(a, b, selector) shuffled<selector>(a, false)
#define _mm512_shuffle_f32x4(a, b, selector) shuffled<selector>(a, true)
#define _mm512_permutexvar_ps picked
#define _mm512_i32gather_ps(index, table, size)                                   \
  [&](const __m512i& at) {                                                        \
    const __m512i v = each<uint32_t>([&, x = Lanes<int32_t>(at)](int i) {         \
      return loaded<uint32_t>((table) + x.lane[i]);                               \
    });                                                                           \
    return loaded<__m512>(&v);                                                    \
  }(index)
#define _mm512_packs_epi32 emulated_packs_epi32
#define _mm512_packus_epi16 emulated_packus_epi16
#define _mm512_adds_epi16 emulated_adds_epi16
#define _mm512_min_epu8 emulated_min_epu8
#define _mm512_max_epu8 emulated_max_epu8
#define _mm512_permutexvar_epi32 emulated_permutexvar_epi32
#define _mm512_permutexvar_epi64 emulated_permutexvar_epi64
#define _mm512_movepi8_mask emulated_movepi8_mask
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32 emulated_ternarylogic_epi32
#define _mm512_permutexvar_epi8 emulated_permutexvar_epi8
#define _mm512_permutex2var_epi8 emulated_permutex2var_epi8
#define _mm512_mask_expand_epi8 emulated_mask_expand_epi8
#define _mm512_zextsi256_si512 zero_extended
#undef _mm512_setr_epi64  // gcc has macros
#define _mm512_setr_epi64 listed64
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 listed
#define _mm512_castsi512_si128(v) loaded<__m128i>(&static_cast<const __m512i&>(v))
#define _mm512_set1_epi16(v) each<int16_t>([&](int) { return v; })
#define _mm512_set1_epi8(v) each<int8_t>([&](int) { return v; })
#define _mm512_set1_epi32(v) each<int32_t>([&](int) { return v; })
#define _mm512_set1_ps(v) Halves(_mm256_set1_ps(v), _mm256_set1_ps(v)).joined()
#define _mm512_setzero_si512() each<int32_t>([](int) { return 0; })
#define _mm512_loadu_si512(p) loaded<__m512i>(p)
#define _mm512_loadu_ps(p) loaded<__m512>(p)
#define _mm512_storeu_si512(p, v) masked_store<uint8_t>(p, ~uint64_t{0}, v)
#define _mm512_maskz_loadu_epi8(mask, p) masked_load<uint8_t>(mask, p)
#define _mm512_maskz_loadu_epi32(mask, p) masked_load<uint32_t>(mask, p)
#define _mm512_mask_storeu_epi8(p, mask, v) masked_store<uint8_t>(p, mask, v)
#define _mm512_mask_storeu_epi32(p, mask, v) masked_store<uint32_t>(p, mask, v)
#define _mm512_mask_storeu_ps(p, mask, v) masked_store<uint32_t>(p, mask, v)
#define _mm512_cvtepi32_epi8 narrowed
#define _mm512_mask_cvtepi32_storeu_epi8(p, mask, v)                         \
  [&](const __m128i& narrow) {                                               \
    for (int i = 0; i < 16; ++i) {                                           \
      if ((mask) >> i & 1) std::memcpy((p) + i, reinterpret_cast<const char*>(&narrow) + i, 1); \
    }                                                                        \
  }(narrowed(v))
#define _mm512_cvtepu8_epi32(v) widened<uint8_t>(v)
#define _mm512_cvtepu16_epi32(v)                                                      \
  each<int32_t>([x = (v)](int i) {                                                    \
    return reinterpret_cast<const uint16_t*>(&x)[i];                                  \
  })
#define _mm512_cvtepi8_epi32(v) widened<int8_t>(v)
#define QC_SHIFTED(type, v, op, n) \
  each<type>([x = Lanes<type>(v)](int i) { return x.lane[i] op (n); })
#define _mm512_srli_epi16(v, n) QC_SHIFTED(uint16_t, v, >>, n)
#define _mm512_slli_epi16(v, n) QC_SHIFTED(uint16_t, v, <<, n)
#define _mm512_srai_epi16(v, n) QC_SHIFTED(int16_t, v, >>, n)
#define _mm512_srli_epi32(v, n) QC_SHIFTED(uint32_t, v, >>, n)
#define _mm512_slli_epi32(v, n) QC_SHIFTED(uint32_t, v, <<, n)
#define _mm512_srlv_epi32(v, by) /* by less than 32 */                                \
  each<uint32_t>([x = Lanes<uint32_t>(v), n = Lanes<uint32_t>(by)](int i) {           \
    return x.lane[i] >> n.lane[i]; })
#define _mm512_rorv_epi32(v, by)                                                      \
  each<uint32_t>([x = Lanes<uint32_t>(v), n = Lanes<uint32_t>(by)](int i) {           \
    return x.lane[i] >> (n.lane[i] & 31u) | x.lane[i] << (-n.lane[i] & 31u); })
#define _mm512_srai_epi32(v, n) QC_SHIFTED(int32_t, v, >>, n)
#define _mm512_cmpgt_epi8_mask(a, b) \
  mask_of<int8_t>(a, b, [](int8_t x, int8_t y) { return x > y; })
#define _mm512_cmpeq_epi8_mask(a, b) \
  mask_of<int8_t>(a, b, [](int8_t x, int8_t y) { return x == y; })
#define _mm512_cmpeq_epi32_mask(a, b) \
  mask_of<int32_t>(a, b, [](int32_t x, int32_t y) { return x == y; })
#define _mm512_movepi32_mask(v) static_cast<uint16_t>( \
    mask_of<int32_t>(v, v, [](int32_t x, int32_t) { return x < 0; }))
#define _mm512_maskz_mov_epi8(mask, v) masked_load<uint8_t>(mask, &static_cast<const __m512i&>(v))
#define _mm512_mask_mov_epi8(from, mask, v)                                           \
  each<int8_t>([m = uint64_t{mask}, x = Lanes<int8_t>(from), y = Lanes<int8_t>(v)](int i) { \
    return m >> i & 1 ? y.lane[i] : x.lane[i];                                        \
  })
#define _mm512_mask_mov_ps(from, mask, v) \
  Lanes<int32_t>(_mm512_mask_mov_epi32(from, mask, v)).as<__m512>()
#define _mm512_mask_mov_epi32(from, mask, v)                                          \
  each<int32_t>([m = uint64_t{mask}, x = Lanes<int32_t>(from), y = Lanes<int32_t>(v)](int i) { \
    return m >> i & 1 ? y.lane[i] : x.lane[i];                                        \
  })
#define _mm512_mask_add_epi8(from, mask, a, b)                                        \
  each<uint8_t>([m = uint64_t{mask}, x = Lanes<uint8_t>(from), y = Lanes<uint8_t>(a), \
                 z = Lanes<uint8_t>(b)](int i) {                                      \
    return m >> i & 1 ? y.lane[i] + z.lane[i] : x.lane[i];                            \
  })
#define _mm512_shuffle_epi8 shuffled
#define _mm512_maskz_shuffle_epi8(mask, table, index) \
  masked_load<uint8_t>(mask, &static_cast<const __m512i&>(shuffled(table, index)))
#define _mm512_mask_shuffle_epi8(from, mask, table, index)                              \
  each<uint8_t>([m = uint64_t{mask}, x = Lanes<uint8_t>(from),                          \
                 y = Lanes<uint8_t>(shuffled(table, index))](int i) {                   \
    return m >> i & 1 ? y.lane[i] : x.lane[i];                                          \
  })
#define _mm512_broadcast_i32x4(v) \
  each<int32_t>([x = loaded<Quarter>(&static_cast<const __m128i&>(v))](int i) { return x.lane[i % 4]; })
#define _mm512_unpacklo_epi8(a, b) unpacked<int8_t>(a, b, 0)
#define _mm512_unpackhi_epi8(a, b) unpacked<int8_t>(a, b, 8)
#define _mm512_unpacklo_epi16(a, b) unpacked<int16_t>(a, b, 0)
#define _mm512_unpackhi_epi16(a, b) unpacked<int16_t>(a, b, 4)
#define _mm512_unpacklo_epi32(a, b) unpacked<int32_t>(a, b, 0)
#define _mm512_unpackhi_epi32(a, b) unpacked<int32_t>(a, b, 2)
#define _mm512_unpacklo_epi64(a, b) unpacked<int64_t>(a, b, 0)
#define _mm512_unpackhi_epi64(a, b) unpacked<int64_t>(a, b, 1)
#define _mm512_castsi512_si256(v) loaded<__m256i>(&static_cast<const __m512i&>(v))
#define _mm512_extracti64x4_epi64(v, half) \
  loaded<__m256i>(reinterpret_cast<const char*>(&static_cast<const __m512i&>(v)) + 32 * (half))
#define _mm512_dpbusd_epi32 dot_bytes
#define _mm512_dpwssd_epi32 dot_words
#define _mm512_reduce_max_epi32 greatest
#define _mm512_reduce_add_epi32 total_of
#define _mm512_reduce_max_ps greatest_float
#define _mm512_reduce_add_ps float_sum
#define _mm256_dpbusd_avx_epi32 dot_bytes256
