// SPDX-License-Identifier: Apache-2.0
// The vectors of simd.h with AVX512-VNNI: one register each. Included by
// simd.h alone, for files that are compiled with -mavx512vnni.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_half.h"

namespace qcompile {
namespace {

using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;
constexpr bool kHasDot = true;       // u8 * s8 into int32 without intermediate saturation
#define QC_HAS_MANY_SUMS             // 16 of them and their operands fit the registers
constexpr int kMaxTiles = 4;         // tiles whose accumulators fit the registers together
constexpr int kRowsOfTiles[5] = {0, 12, 8, 8, 6};
constexpr int kFusedRowsAtOnce = 4;
constexpr int kFloatRows = 8;
constexpr int kFloatTiles = 4;       // of 6 rows, in the product of unpacked floats

QC_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
QC_INLINE Bytes load_bytes(const void* p, int64_t count) {  // the rest is 0
  return _mm512_maskz_loadu_epi8(_cvtu64_mask64(~uint64_t{0} >> (64 - count)), p);
}
QC_INLINE Bytes load_groups(const void* p, int64_t count) { return load_bytes(p, 4 * count); }
QC_INLINE void store_bytes(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
// Keeps a loaded vector in its register. Else gcc loads it again in every multiply-add that uses it,
// and two loads a cycle are too few for that.
#ifdef QC_EMULATED  // tests/runtime_ops/emulated_avx512.h has no such registers
QC_INLINE void keep(Bytes&) {}
QC_INLINE void keep(__m512&) {}
#else
QC_INLINE void keep(Bytes& v) { __asm__("" : "+v"(v)); }
QC_INLINE void keep(__m512& v) { __asm__("" : "+v"(v)); }
#endif
QC_INLINE Bytes set_bytes(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
template <int kBits>
QC_INLINE Bytes shift_right(Bytes v) {
  if constexpr (kBits > 0) return _mm512_srli_epi16(v, kBits);
  if constexpr (kBits < 0) return _mm512_slli_epi16(v, -kBits);
  return v;
}
// Bytes, or pairs of them, of a and b in turn, of one half of every 128-bit lane.
QC_INLINE Bytes zip_low8(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
QC_INLINE Bytes zip_high8(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
QC_INLINE Bytes zip_low16(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
QC_INLINE Bytes zip_high16(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }
QC_INLINE Bytes add_bytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
QC_INLINE Bytes high_trits(Bytes v) {
  const Bytes ones = set_bytes(1);
  const __mmask64 one = _mm512_cmpgt_epi8_mask(v, set_bytes(kTritBorders[0]));
  const __mmask64 two = _mm512_cmpgt_epi8_mask(v, set_bytes(kTritBorders[1]));
  return _mm512_mask_add_epi8(_mm512_maskz_mov_epi8(one, ones), two, ones, ones);
}
QC_INLINE Bytes high_quints(Bytes v) {
  const Bytes ones = set_bytes(1);
  Bytes quint = _mm512_setzero_si512();
  for (int8_t border : kQuintBorders) {
    quint = _mm512_mask_add_epi8(quint, _mm512_cmpgt_epi8_mask(v, set_bytes(border)), quint, ones);
  }
  return quint;
}
QC_INLINE Bytes bit_and(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
QC_INLINE Bytes bit_or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
QC_INLINE Bytes bit_xor(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
QC_INLINE Bytes repeat16(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QC_INLINE Bytes lookup16(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }
// table[index & 15] where index >> 4 == high, else 0
QC_INLINE Bytes lookup16_where(Bytes table, Bytes index, int high) {
  const Bytes top = bit_and(_mm512_srli_epi16(index, 4), set_bytes(15));
  return _mm512_maskz_shuffle_epi8(_mm512_cmpeq_epi8_mask(top, set_bytes(high)), table,
                                   bit_and(index, set_bytes(15)));
}
// `other` where the index is `code`, else v
QC_INLINE Bytes replace_where(Bytes v, Bytes index, int code, Bytes other) {
  return _mm512_mask_mov_epi8(v, _mm512_cmpeq_epi8_mask(index, set_bytes(code)), other);
}
// The vector in a register: else each of several shifts would load it again, and this processor
// family loads one vector of 64 bytes a cycle.
QC_INLINE Bytes held(Bytes v) {
#ifndef QC_EMULATED
  asm("" : "+v"(v));
#endif
  return v;
}
#ifdef __AVX512VBMI__
#define QC_HAS_BYTE_PERMUTE
// table[index] of 64, 128 and 256 bytes
QC_INLINE Bytes lookup64(Bytes table, Bytes index) {
  return _mm512_permutexvar_epi8(index, table);
}
QC_INLINE Bytes lookup128(Bytes low, Bytes high, Bytes index) {
  return _mm512_permutex2var_epi8(low, index, high);
}
QC_INLINE Bytes lookup256(const Bytes (&t)[4], Bytes index) {
  return _mm512_mask_mov_epi8(lookup128(t[0], t[1], index), _mm512_movepi8_mask(index),
                              lookup128(t[2], t[3], index));
}
#define QC_HAS_LOOSE_INDEX  // lookup64 reads the lowest 6 bits of an index alone
// Bytes 16 kTile ... 16 kTile + 15, each four times.
template <int kTile>
QC_INLINE Bytes spread_tile(Bytes v) {
  constexpr int kFirst = 16 * kTile * 0x01010101, kStep = 0x01010101;
  const Bytes places = _mm512_setr_epi32(
      kFirst, kFirst + kStep, kFirst + 2 * kStep, kFirst + 3 * kStep, kFirst + 4 * kStep,
      kFirst + 5 * kStep, kFirst + 6 * kStep, kFirst + 7 * kStep, kFirst + 8 * kStep,
      kFirst + 9 * kStep, kFirst + 10 * kStep, kFirst + 11 * kStep, kFirst + 12 * kStep,
      kFirst + 13 * kStep, kFirst + 14 * kStep, kFirst + 15 * kStep);
  return lookup64(v, places);
}
#endif

// Of every four bytes the two that `mask` (64 bits) has, in their order; else those of `zeros`.
QC_INLINE Bytes expand(Half kept, const uint8_t* mask, Bytes zeros) {
  uint64_t bits;
  std::memcpy(&bits, mask, 8);
  const Bytes codes = _mm512_zextsi256_si512(kept);
#ifdef __AVX512VBMI2__
  return _mm512_mask_expand_epi8(zeros, _cvtu64_mask64(bits), codes);
#else
  const uint64_t second = bits & ((bits << 1 & 0xeeeeeeeeeeeeeeeeu) |
                                  (bits << 2 & 0xccccccccccccccccu) |
                                  (bits << 3 & 0x8888888888888888u));
  const Bytes firsts = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6));
  const Bytes places =
      _mm512_mask_add_epi8(firsts, _cvtu64_mask64(second), firsts, set_bytes(1));
  // 8 codes to each 128-bit lane.
  const Bytes lanes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), codes);
  return _mm512_mask_shuffle_epi8(zeros, _cvtu64_mask64(bits), lanes, places);
#endif
}
QC_INLINE Bytes as_bytes(__m512i v) { return v; }
// Bits of a where the mask has ones, else of b.
QC_INLINE Bytes merge_bits(Bytes mask, Bytes a, Bytes b) {
  return _mm512_ternarylogic_epi32(a, mask, b, 0xe2);  // a is the one that it may overwrite
}

QC_INLINE Ints set_ints(int32_t v) { return _mm512_set1_epi32(v); }
QC_INLINE Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
QC_INLINE Ints widen(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QC_INLINE Ints widen(const int8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
QC_INLINE Ints widen16(const uint8_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QC_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
QC_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
QC_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
template <int kBits>
QC_INLINE Ints shift_right_signed(Ints v) {
  return _mm512_srai_epi32(v, kBits);
}
QC_INLINE Ints max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
QC_INLINE Ints min(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
QC_INLINE Ints and_ints(Ints a, Ints b) { return _mm512_and_si512(a, b); }
QC_INLINE int32_t max_of(Ints v) { return _mm512_reduce_max_epi32(v); }
QC_INLINE int32_t sum_of(Ints v) { return _mm512_reduce_add_epi32(v); }
#define QC_HAS_CROSSED  // 16 sums and the words of 4 tiles fit the registers
// The signed bytes of even and of odd places as words.
QC_INLINE Ints even_words(Bytes v) { return _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8); }
QC_INLINE Ints odd_words(Bytes v) { return _mm512_srai_epi16(v, 8); }
// Words of the bytes of even and of odd places of two planes.
QC_INLINE Ints even_words(Bytes low, Bytes high) {
  return bit_or(bit_and(low, set_ints(0x00ff00ff)), _mm512_slli_epi16(high, 8));
}
QC_INLINE Ints odd_words(Bytes low, Bytes high) {
  return bit_or(_mm512_srli_epi16(low, 8), bit_and(high, set_ints(~0x00ff00ff)));
}
QC_INLINE Ints add_words(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
// acc + a * b where the upper half of every lane of b is 0 or a and b are below 2^15
QC_INLINE Ints dot16(Ints acc, Ints a, Ints b) { return _mm512_dpwssd_epi32(acc, a, b); }
template <bool kIsWide>
QC_INLINE Ints dot(Ints acc, Bytes u, Ints x) {
  return _mm512_dpbusd_epi32(acc, u, x);
}
template <int kByte>
QC_INLINE Ints byte_of(Bytes v) {
  return _mm512_and_si512(_mm512_srli_epi32(v, 8 * kByte), _mm512_set1_epi32(255));
}
// The sums of four vectors: a transposition shares the steps that four reductions would repeat.
QC_INLINE __m128i sum4(const Ints (&v)[4]) {
  const Ints ab = add(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const Ints cd = add(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  const Ints abcd = add(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
QC_INLINE Ints add_saturating(Ints a, Ints b) {
  const Ints total = _mm512_add_epi32(a, b);
  // (a ^ total) & (b ^ total) is negative where the sum wrapped; the true sign is a's.
  const Ints wrapped = _mm512_and_si512(_mm512_xor_si512(a, total), _mm512_xor_si512(b, total));
  const Ints limit = _mm512_xor_si512(_mm512_srai_epi32(a, 31), _mm512_set1_epi32(INT32_MAX));
  return _mm512_mask_mov_epi32(total, _mm512_movepi32_mask(wrapped), limit);
}

QC_INLINE Floats set_floats(float v) { return _mm512_set1_ps(v); }
QC_INLINE Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
QC_INLINE Floats load_halves(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
QC_INLINE Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
QC_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
QC_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
QC_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
QC_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
QC_INLINE Floats abs(Floats v) { return _mm512_abs_ps(v); }
QC_INLINE Floats round(Floats v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
QC_INLINE bool any_above(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
QC_INLINE Floats as_floats(Ints v) { return _mm512_castsi512_ps(v); }
QC_INLINE Floats fmadd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand where it is NaN.
QC_INLINE Floats min(Floats bound, Floats v) { return _mm512_min_ps(bound, v); }
QC_INLINE Floats max(Floats bound, Floats v) { return _mm512_max_ps(bound, v); }
QC_INLINE Ints as_ints(Floats v) { return _mm512_castps_si512(v); }
template <int kBits>
QC_INLINE Ints shift_right_ints(Ints v) {
  return _mm512_srli_epi32(v, kBits);
}
template <int kBits>
QC_INLINE Ints shift_left(Ints v) {
  return _mm512_slli_epi32(v, kBits);
}
QC_INLINE float max_of(Floats v) { return _mm512_reduce_max_ps(v); }  // of no NaN
QC_INLINE float sum_of(Floats v) { return _mm512_reduce_add_ps(v); }
QC_INLINE Ints round_to_ints(Floats v) {
  return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
QC_INLINE Floats lookup_floats(const float* table, Ints index) {
  return _mm512_i32gather_ps(index, table, 4);
}
QC_INLINE Floats replace_where(Floats v, Ints index, int code, Floats other) {
  return _mm512_mask_mov_ps(v, _mm512_cmpeq_epi32_mask(index, set_ints(code)), other);
}
QC_INLINE Floats lookup16_floats(Floats table, Ints index) {  // the lowest 4 bits of every lane
  return _mm512_permutexvar_ps(index, table);
}
// Each lane by a shift of its own.
QC_INLINE Ints shift_each(Ints v, Ints by) { return _mm512_srlv_epi32(v, by); }
QC_INLINE Ints rotate_each(Ints v, Ints by) { return _mm512_rorv_epi32(v, by); }
// The first number in even lanes, the second one in odd ones.
QC_INLINE Ints set_pairs(int32_t first, int32_t second) {
  return _mm512_mask_mov_epi32(set_ints(first), 0xaaaa, set_ints(second));
}
// Of four vectors, in every 128-bit lane: number i of vector j becomes number j of vector i.
QC_INLINE void transpose_numbers(Bytes (&v)[4]) {
  const Bytes a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const Bytes c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}
// Of four vectors: 128-bit lane i of vector j becomes lane j of vector i.
QC_INLINE void transpose_quarters(Bytes (&v)[4]) {
  const Bytes a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
  const Bytes c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
  v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
  v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

// Lane i becomes lane i ^ kApart.
template <int kApart>
QC_INLINE Floats swap_lanes(Floats v) {
  static_assert(kApart == 1 || kApart == 2 || kApart == 4 || kApart == 8);
  if constexpr (kApart == 1) return _mm512_shuffle_ps(v, v, 0xb1);
  if constexpr (kApart == 2) return _mm512_shuffle_ps(v, v, 0x4e);
  if constexpr (kApart == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
  return _mm512_shuffle_f32x4(v, v, 0x4e);
}

QC_INLINE __mmask16 first(int64_t count) {
  return static_cast<__mmask16>((1u << (count < 16 ? count : 16)) - 1u);
}
QC_INLINE void store_floats(float* p, Floats v, int64_t count) {
  _mm512_mask_storeu_ps(p, first(count), v);
}
QC_INLINE void store_ints(int32_t* p, Ints v, int64_t count) {
  _mm512_mask_storeu_epi32(p, first(count), v);
}
QC_INLINE void store_low_bytes(uint8_t* p, Ints v, int64_t count) {
  // Without the mask where it can be: the masked store of narrowed lanes is several times slower.
  if (count >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  _mm512_mask_cvtepi32_storeu_epi8(p, first(count), v);
}
#define QC_HAS_PACK
QC_INLINE void store_bytes(uint8_t* p, Bytes v, int64_t count) {
  if (count >= 64) return store_bytes(p, v);
  _mm512_mask_storeu_epi8(p, _cvtu64_mask64((uint64_t{1} << count) - 1), v);
}
template <int kCount>
QC_INLINE void store_first(uint8_t* p, Bytes v) {
  if constexpr (kCount == 64) return store_bytes(p, v);
  if constexpr (kCount == 32) {
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(v));
  }
  if constexpr (kCount == 16) {
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(v));
  }
  store_bytes(p, v, kCount);
}
// The codes of four vectors of rounded numbers at once. Both steps of the packing and the addition
// between them saturate, as far outside the bounds as int16 and uint8 reach.
struct CodePacker {
  Ints zero_points;
  Bytes low, high;
  CodePacker(int32_t zero_point, int32_t y_min, int32_t y_max)
      : zero_points(_mm512_set1_epi16(static_cast<int16_t>(zero_point))), low(set_bytes(y_min)),
        high(set_bytes(y_max)) {}
  // Each of the four 128-bit lanes has a quarter of every vector.
  QC_INLINE Bytes lanes(const Ints (&v)[4]) const {
    const Ints ab = _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zero_points);
    const Ints cd = _mm512_adds_epi16(_mm512_packs_epi32(v[2], v[3]), zero_points);
    return _mm512_min_epu8(high, _mm512_max_epu8(low, _mm512_packus_epi16(ab, cd)));
  }
  // The vectors in their order.
  QC_INLINE Bytes operator()(const Ints (&v)[4]) const {
    const Ints order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, lanes(v));
  }
};
QC_INLINE void store_signed_bytes(int8_t* p, Ints v, int64_t count) {  // of -128 ... 127
  store_low_bytes(reinterpret_cast<uint8_t*>(p), v, count);
}
QC_INLINE void zero_bytes(void* p, int64_t count) {
  if (count >= 64) {
    std::memset(p, 0, static_cast<size_t>(count));
    return;
  }
  _mm512_mask_storeu_epi8(p, _cvtu64_mask64((uint64_t{1} << count) - 1), _mm512_setzero_si512());
}
QC_INLINE Ints load_ints(const int32_t* p, int64_t count) {  // the rest is 0
  return _mm512_maskz_loadu_epi32(first(count), p);
}

}  // namespace
}  // namespace qcompile
