// SPDX-License-Identifier: Apache-2.0
// The vectors of simd.h with AVX2: two registers each. Included by
// simd.h alone, for files that are compiled with -mavx2, some with -mavxvnni.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_half.h"

namespace qcompile {
namespace {

struct Bytes {
  __m256i a, b;
};
using Ints = Bytes;
struct Floats {
  __m256 a, b;
};
constexpr int kMaxTiles = 2;
constexpr int kRowsOfTiles[5] = {0, 4, 2, 0, 0};
constexpr int kFusedRowsAtOnce = 1;
constexpr int kFloatRows = 4;
constexpr int kFloatTiles = 1;
#ifdef __AVXVNNI__
constexpr bool kHasDot = true;
#else
constexpr bool kHasDot = false;
#endif

QC_INLINE __m256i load256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
QC_INLINE void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
QC_INLINE Bytes load_bytes(const void* p) {
  return {load256(p), load256(static_cast<const char*>(p) + 32)};
}
QC_INLINE Bytes load_bytes(const void* p, int64_t count) {
  alignas(32) uint8_t copy[64] = {};
  std::memcpy(copy, p, static_cast<size_t>(count));
  return load_bytes(copy);
}
// 4 · count bytes, the rest is 0.
QC_INLINE Bytes load_groups(const void* p, int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i n = _mm256_set1_epi32(static_cast<int>(count));
  const int* from = static_cast<const int*>(p);
  return {_mm256_maskload_epi32(from, _mm256_cmpgt_epi32(n, lanes)),
          _mm256_maskload_epi32(
              from + 8, _mm256_cmpgt_epi32(n, _mm256_add_epi32(lanes, _mm256_set1_epi32(8))))};
}
QC_INLINE void store_bytes(void* p, Bytes v) {
  store256(p, v.a);
  store256(static_cast<char*>(p) + 32, v.b);
}
QC_INLINE Bytes add_bytes(Bytes x, Bytes y) {
  return {_mm256_add_epi8(x.a, y.a), _mm256_add_epi8(x.b, y.b)};
}
QC_INLINE __m256i high_trits256(__m256i v) {
  const __m256i one = _mm256_cmpgt_epi8(v, _mm256_set1_epi8(kTritBorders[0]));
  const __m256i two = _mm256_cmpgt_epi8(v, _mm256_set1_epi8(kTritBorders[1]));
  return _mm256_sub_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), one), two);
}
QC_INLINE Bytes high_trits(Bytes v) { return {high_trits256(v.a), high_trits256(v.b)}; }
QC_INLINE __m256i high_quints256(__m256i v) {
  __m256i quint = _mm256_setzero_si256();
  for (int8_t border : kQuintBorders) {
    quint = _mm256_sub_epi8(quint, _mm256_cmpgt_epi8(v, _mm256_set1_epi8(border)));
  }
  return quint;
}
QC_INLINE Bytes high_quints(Bytes v) { return {high_quints256(v.a), high_quints256(v.b)}; }
QC_INLINE void keep(Bytes& v) { __asm__("" : "+x"(v.a), "+x"(v.b)); }
QC_INLINE void keep(Floats& v) { __asm__("" : "+x"(v.a), "+x"(v.b)); }
QC_INLINE Bytes set_bytes(int v) {
  const __m256i one = _mm256_set1_epi8(static_cast<char>(v));
  return {one, one};
}
template <int kBits>
QC_INLINE Bytes shift_right(Bytes v) {
  if constexpr (kBits > 0) return {_mm256_srli_epi16(v.a, kBits), _mm256_srli_epi16(v.b, kBits)};
  if constexpr (kBits < 0) return {_mm256_slli_epi16(v.a, -kBits), _mm256_slli_epi16(v.b, -kBits)};
  return v;
}
QC_INLINE Bytes bit_and(Bytes x, Bytes y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
QC_INLINE Bytes bit_or(Bytes x, Bytes y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
QC_INLINE Bytes repeat16(const uint8_t* p) {
  const __m256i one =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {one, one};
}
QC_INLINE Bytes lookup16(Bytes table, Bytes index) {
  return {_mm256_shuffle_epi8(table.a, index.a), _mm256_shuffle_epi8(table.b, index.b)};
}
QC_INLINE Bytes lookup16_where(Bytes table, Bytes index, int high) {
  const Bytes top = bit_and(shift_right<4>(index), set_bytes(15)), wanted = set_bytes(high);
  const Bytes found = lookup16(table, bit_and(index, set_bytes(15)));
  return {_mm256_and_si256(_mm256_cmpeq_epi8(top.a, wanted.a), found.a),
          _mm256_and_si256(_mm256_cmpeq_epi8(top.b, wanted.b), found.b)};
}
// `other` where the index is `code`, else v
QC_INLINE Bytes replace_where(Bytes v, Bytes index, int code, Bytes other) {
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(code));
  return {_mm256_blendv_epi8(v.a, other.a, _mm256_cmpeq_epi8(index.a, wanted)),
          _mm256_blendv_epi8(v.b, other.b, _mm256_cmpeq_epi8(index.b, wanted))};
}

// 8 outputs: `mask` has 32 bits, `kept` 8 codes in each 128-bit lane.
QC_INLINE __m256i expand256(__m256i kept, const uint8_t* mask, __m256i zeros) {
  int32_t bits;
  std::memcpy(&bits, mask, 4);
  const __m256i bytes = _mm256_shuffle_epi8(
      _mm256_set1_epi32(bits),
      _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                       3, 3, 3, 3, 3, 3));
  const __m256i own = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i before = _mm256_set1_epi64x(0x7030100007030100);
  const __m256i is_kept = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
  const __m256i is_first =
      _mm256_cmpeq_epi8(_mm256_and_si256(bytes, before), _mm256_setzero_si256());
  const __m256i seconds = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7));
  const __m256i codes = _mm256_shuffle_epi8(kept, _mm256_add_epi8(seconds, is_first));
  return _mm256_blendv_epi8(zeros, codes, is_kept);
}
// Of every four bytes the two that `mask` (64 bits) has, in their order; else those of `zeros`.
QC_INLINE Bytes expand(Half kept, const uint8_t* mask, Bytes zeros) {
  return {expand256(_mm256_permute4x64_epi64(kept, 0x50), mask, zeros.a),
          expand256(_mm256_permute4x64_epi64(kept, 0xfa), mask + 4, zeros.b)};
}
QC_INLINE Bytes as_bytes(Bytes v) { return v; }

QC_INLINE Ints set_ints(int32_t v) {
  const __m256i one = _mm256_set1_epi32(v);
  return {one, one};
}
QC_INLINE Ints load_ints(const int32_t* p) { return load_bytes(p); }
QC_INLINE __m128i load64(const void* p) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(p));
}
QC_INLINE Ints widen(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(load64(p)), _mm256_cvtepu8_epi32(load64(p + 8))};
}
QC_INLINE Ints widen(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(load64(p)), _mm256_cvtepi8_epi32(load64(p + 8))};
}
QC_INLINE Ints widen16(const uint8_t* p) {
  const __m128i* words = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(words)),
          _mm256_cvtepu16_epi32(_mm_loadu_si128(words + 1))};
}
QC_INLINE Ints add(Ints x, Ints y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
QC_INLINE Ints sub(Ints x, Ints y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
QC_INLINE Ints mul(Ints x, Ints y) {
  return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
QC_INLINE Ints max(Ints x, Ints y) {
  return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)};
}
QC_INLINE Ints min(Ints x, Ints y) {
  return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)};
}
QC_INLINE Ints and_ints(Ints x, Ints y) { return bit_and(x, y); }
template <int kBits>
QC_INLINE Ints shift_right_signed(Ints v) {
  return {_mm256_srai_epi32(v.a, kBits), _mm256_srai_epi32(v.b, kBits)};
}
QC_INLINE int32_t max_of(Ints v) {
  const __m256i half = _mm256_max_epi32(v.a, v.b);
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
QC_INLINE int32_t sum_of(Ints v) {
  const __m256i half = _mm256_add_epi32(v.a, v.b);
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
QC_INLINE Ints dot16(Ints acc, Ints x, Ints y) {
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, y.a)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, y.b))};
}
#ifdef __AVXVNNI__
template <bool kIsWide>
QC_INLINE __m256i dot256(__m256i acc, __m256i u, __m256i x) {
  return _mm256_dpbusd_avx_epi32(acc, u, x);
}
#else
// No exact dot product of bytes: what products in 16-bit words need.
#define QC_HAS_WORDS
// Of every four bytes the first and the third, or the second and the fourth, as words.
QC_INLINE Bytes even_words(Bytes u) { return bit_and(u, set_ints(0xff00ff)); }
QC_INLINE Bytes odd_words(Bytes u) {
  return {_mm256_srli_epi16(u.a, 8), _mm256_srli_epi16(u.b, 8)};
}
QC_INLINE Bytes add_words(Bytes x, Bytes y) {
  return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)};
}
// u8 * s8, two neighbours in a word
QC_INLINE Bytes sum_pairs(Bytes u, Bytes x) {
  return {_mm256_maddubs_epi16(u.a, x.a), _mm256_maddubs_epi16(u.b, x.b)};
}
QC_INLINE Bytes sub_words(Bytes x, Bytes y) {
  return {_mm256_sub_epi16(x.a, y.a), _mm256_sub_epi16(x.b, y.b)};
}
// vpmaddubsw adds two u8*s8 products in int16 and saturates. With u <= 127 a pair is within
// 2*127*128 = 32512 and fits. A wide u (up to 255) is multiplied in words.
template <bool kIsWide>
QC_INLINE __m256i dot256(__m256i acc, __m256i u, __m256i x) {
  if constexpr (!kIsWide) {
    const __m256i ones = _mm256_set1_epi16(1);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, x), ones));
  }
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
  acc = _mm256_add_epi32(
      acc, _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(0xff)), even));
  return _mm256_add_epi32(acc,
                          _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(x, 8)));
}
// 16 or 4 codes as words, those of every four columns in the order 0, 2, 1, 3.
QC_INLINE void store_words16(int16_t* p, const int8_t* codes) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m128i even = _mm_srai_epi16(_mm_slli_epi16(x, 8), 8), odd = _mm_srai_epi16(x, 8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(even, odd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm_unpackhi_epi32(even, odd));
}
QC_INLINE void store_words4(int16_t* p, const int8_t* codes) {
  const int16_t words[4] = {codes[0], codes[2], codes[1], codes[3]};
  std::memcpy(p, words, sizeof words);
}
#endif
template <bool kIsWide>
QC_INLINE Ints dot(Ints acc, Bytes u, Ints x) {
  return {dot256<kIsWide>(acc.a, u.a, x.a), dot256<kIsWide>(acc.b, u.b, x.b)};
}
template <int kByte>
QC_INLINE Ints byte_of(Bytes v) {
  const __m256i mask = _mm256_set1_epi32(255);
  return {_mm256_and_si256(_mm256_srli_epi32(v.a, 8 * kByte), mask),
          _mm256_and_si256(_mm256_srli_epi32(v.b, 8 * kByte), mask)};
}
QC_INLINE __m128i sum4(const Ints (&v)[4]) {
  __m256i w[4];
  for (int i = 0; i < 4; ++i) w[i] = _mm256_add_epi32(v[i].a, v[i].b);
  const __m256i abcd = _mm256_hadd_epi32(_mm256_hadd_epi32(w[0], w[1]),
                                         _mm256_hadd_epi32(w[2], w[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));
}
QC_INLINE __m256i add_saturating256(__m256i x, __m256i y) {
  const __m256i total = _mm256_add_epi32(x, y);
  const __m256i wrapped = _mm256_and_si256(_mm256_xor_si256(x, total), _mm256_xor_si256(y, total));
  const __m256i limit =
      _mm256_xor_si256(_mm256_srai_epi32(x, 31), _mm256_set1_epi32(INT32_MAX));
  return _mm256_blendv_epi8(total, limit, _mm256_srai_epi32(wrapped, 31));
}
QC_INLINE Ints add_saturating(Ints x, Ints y) {
  return {add_saturating256(x.a, y.a), add_saturating256(x.b, y.b)};
}

QC_INLINE Floats set_floats(float v) {
  const __m256 one = _mm256_set1_ps(v);
  return {one, one};
}
QC_INLINE Floats load_floats(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
QC_INLINE Floats load_halves(const uint8_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
QC_INLINE Floats to_floats(Ints v) {
  return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}
QC_INLINE Floats add(Floats x, Floats y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
QC_INLINE Floats mul(Floats x, Floats y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
QC_INLINE Floats sub(Floats x, Floats y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
QC_INLINE Floats div(Floats x, Floats y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
QC_INLINE Floats abs(Floats v) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, v.a), _mm256_andnot_ps(sign, v.b)};
}
QC_INLINE Floats round(Floats v) {
  return {_mm256_round_ps(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
QC_INLINE bool any_above(Floats x, Floats y) {
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ),
                                         _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))) != 0;
}
QC_INLINE Floats as_floats(Ints v) {
  return {_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)};
}
QC_INLINE Floats fmadd(Floats x, Floats y, Floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
QC_INLINE Floats min(Floats bound, Floats v) {
  return {_mm256_min_ps(bound.a, v.a), _mm256_min_ps(bound.b, v.b)};
}
QC_INLINE Floats max(Floats bound, Floats v) {
  return {_mm256_max_ps(bound.a, v.a), _mm256_max_ps(bound.b, v.b)};
}
QC_INLINE float max_of(Floats v) {  // of no NaN
  const __m256 half = _mm256_max_ps(v.a, v.b);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
QC_INLINE float sum_of(Floats v) {
  const __m256 half = _mm256_add_ps(v.a, v.b);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
QC_INLINE __m256i round256(__m256 v) {
  return _mm256_cvtps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
QC_INLINE Ints as_ints(Floats v) { return {_mm256_castps_si256(v.a), _mm256_castps_si256(v.b)}; }
template <int kBits>
QC_INLINE Ints shift_right_ints(Ints v) {
  return {_mm256_srli_epi32(v.a, kBits), _mm256_srli_epi32(v.b, kBits)};
}
template <int kBits>
QC_INLINE Ints shift_left(Ints v) {
  return {_mm256_slli_epi32(v.a, kBits), _mm256_slli_epi32(v.b, kBits)};
}
QC_INLINE Ints round_to_ints(Floats v) { return {round256(v.a), round256(v.b)}; }
QC_INLINE Floats lookup_floats(const float* table, Ints index) {
  return {_mm256_i32gather_ps(table, index.a, 4), _mm256_i32gather_ps(table, index.b, 4)};
}
// Each half of the table by the lowest 3 bits; the 4th, as a sign, chooses.
QC_INLINE __m256 lookup16_floats256(Floats table, __m256i index) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.a, index),
                          _mm256_permutevar8x32_ps(table.b, index),
                          _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
QC_INLINE Floats lookup16_floats(Floats table, Ints index) {  // the lowest 4 bits of every lane
  return {lookup16_floats256(table, index.a), lookup16_floats256(table, index.b)};
}
// Each lane by a shift of its own.
QC_INLINE Ints shift_each(Ints v, Ints by) {
  return {_mm256_srlv_epi32(v.a, by.a), _mm256_srlv_epi32(v.b, by.b)};
}
QC_INLINE Ints rotate_each(Ints v, Ints by) {  // to the right; a shift by 32 gives 0
  const __m256i all = _mm256_set1_epi32(32);
  return {_mm256_or_si256(_mm256_srlv_epi32(v.a, by.a),
                          _mm256_sllv_epi32(v.a, _mm256_sub_epi32(all, by.a))),
          _mm256_or_si256(_mm256_srlv_epi32(v.b, by.b),
                          _mm256_sllv_epi32(v.b, _mm256_sub_epi32(all, by.b)))};
}
// The first number in even lanes, the second one in odd ones.
QC_INLINE Ints set_pairs(int32_t first, int32_t second) {
  const __m256i one = _mm256_blend_epi32(_mm256_set1_epi32(first), _mm256_set1_epi32(second), 0xaa);
  return {one, one};
}
// Bits of a where the mask has ones, else of b.
QC_INLINE Ints merge_bits(Ints mask, Ints a, Ints b) {
  return {_mm256_or_si256(_mm256_and_si256(mask.a, a.a), _mm256_andnot_si256(mask.a, b.a)),
          _mm256_or_si256(_mm256_and_si256(mask.b, a.b), _mm256_andnot_si256(mask.b, b.b))};
}
QC_INLINE void transpose256(__m256i& v0, __m256i& v1, __m256i& v2, __m256i& v3) {
  const __m256i a = _mm256_unpacklo_epi32(v0, v1), b = _mm256_unpackhi_epi32(v0, v1);
  const __m256i c = _mm256_unpacklo_epi32(v2, v3), d = _mm256_unpackhi_epi32(v2, v3);
  v0 = _mm256_unpacklo_epi64(a, c);
  v1 = _mm256_unpackhi_epi64(a, c);
  v2 = _mm256_unpacklo_epi64(b, d);
  v3 = _mm256_unpackhi_epi64(b, d);
}
// Of four vectors, in every 128-bit lane: number i of vector j becomes number j of vector i.
QC_INLINE void transpose_numbers(Bytes (&v)[4]) {
  transpose256(v[0].a, v[1].a, v[2].a, v[3].a);
  transpose256(v[0].b, v[1].b, v[2].b, v[3].b);
}
// Of four vectors: 128-bit lane i of vector j becomes lane j of vector i.
QC_INLINE void transpose_quarters(Bytes (&v)[4]) {
  const Bytes w[4] = {v[0], v[1], v[2], v[3]};
  v[0] = {_mm256_permute2x128_si256(w[0].a, w[1].a, 0x20),
          _mm256_permute2x128_si256(w[2].a, w[3].a, 0x20)};
  v[1] = {_mm256_permute2x128_si256(w[0].a, w[1].a, 0x31),
          _mm256_permute2x128_si256(w[2].a, w[3].a, 0x31)};
  v[2] = {_mm256_permute2x128_si256(w[0].b, w[1].b, 0x20),
          _mm256_permute2x128_si256(w[2].b, w[3].b, 0x20)};
  v[3] = {_mm256_permute2x128_si256(w[0].b, w[1].b, 0x31),
          _mm256_permute2x128_si256(w[2].b, w[3].b, 0x31)};
}
QC_INLINE Floats replace_where(Floats v, Ints index, int code, Floats other) {
  const __m256i wanted = _mm256_set1_epi32(code);
  return {_mm256_blendv_ps(v.a, other.a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(index.a, wanted))),
          _mm256_blendv_ps(v.b, other.b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(index.b, wanted)))};
}

// Lane i becomes lane i ^ kApart.
template <int kApart>
QC_INLINE Floats swap_lanes(Floats v) {
  static_assert(kApart == 1 || kApart == 2 || kApart == 4 || kApart == 8);
  if constexpr (kApart == 1) {
    return {_mm256_permute_ps(v.a, 0xb1), _mm256_permute_ps(v.b, 0xb1)};
  }
  if constexpr (kApart == 2) {
    return {_mm256_permute_ps(v.a, 0x4e), _mm256_permute_ps(v.b, 0x4e)};
  }
  if constexpr (kApart == 4) {
    return {_mm256_permute2f128_ps(v.a, v.a, 1), _mm256_permute2f128_ps(v.b, v.b, 1)};
  }
  return {v.b, v.a};
}

QC_INLINE void store_ints(int32_t* p, Ints v, int64_t count) {
  if (count >= 16) return store_bytes(p, v);
  alignas(32) int32_t copy[16];
  store_bytes(copy, v);
  std::memcpy(p, copy, static_cast<size_t>(count) * 4);
}
QC_INLINE void store_floats(float* p, Floats v, int64_t count) {
  store_ints(reinterpret_cast<int32_t*>(p), {_mm256_castps_si256(v.a), _mm256_castps_si256(v.b)},
             count);
}
QC_INLINE void store_signed_bytes(int8_t* p, Ints v, int64_t count) {  // of -128 ... 127
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
  alignas(16) int8_t copy[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(copy),
                  _mm_packs_epi16(_mm256_castsi256_si128(words),
                                  _mm256_extracti128_si256(words, 1)));
  std::memcpy(p, copy, static_cast<size_t>(count < 16 ? count : 16));
}
QC_INLINE void zero_bytes(void* p, int64_t count) {
  std::memset(p, 0, static_cast<size_t>(count));
}
QC_INLINE Ints load_ints(const int32_t* p, int64_t count) {  // the rest is 0
  return count >= 16 ? load_ints(p) : load_bytes(p, count * 4);
}
QC_INLINE void store_low_bytes(uint8_t* p, Ints v, int64_t count) {
  // 16 int32 of 0 ... 255 to bytes; the packs work on 128-bit halves, the permute orders them.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (count >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  alignas(16) uint8_t copy[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(copy), bytes);
  std::memcpy(p, copy, static_cast<size_t>(count));
}

}  // namespace
}  // namespace qcompile
