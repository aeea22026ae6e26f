// SPDX-License-Identifier: Apache-2.0
// The vectors of simd.h on arm64: four q registers hold what one AVX-512 register does. Included by
// simd.h alone, for files that are compiled with +dotprod, one with +i8mm.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace qcompile {
namespace {

struct Bytes {
  uint8x16_t q[4];
};
struct Ints {
  int32x4_t q[4];
};
struct Floats {
  float32x4_t q[4];
};
constexpr int kMaxTiles = 1;
constexpr int kRowsOfTiles[5] = {0, 6, 2, 0, 0};  // 6 rows: 24 sums, 4 codes and a broadcast
constexpr int kFusedRowsAtOnce = 1;
// sdot multiplies signed bytes. Codes above 127 are taken as u - 128, and the sums start at
// 128 * sum(x) more.
constexpr bool kHasDot = false;
constexpr bool kIsSignedDot = true;

QC_INLINE Bytes load_bytes(const void* p) {
  const uint8_t* from = static_cast<const uint8_t*>(p);
  return {{vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32), vld1q_u8(from + 48)}};
}
QC_INLINE void store_bytes(void* p, Bytes v) {
  for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8_t*>(p) + 16 * i, v.q[i]);
}
QC_INLINE void keep(Bytes& v) {
  __asm__("" : "+w"(v.q[0]), "+w"(v.q[1]), "+w"(v.q[2]), "+w"(v.q[3]));
}
QC_INLINE void keep(Ints& v) {
  __asm__("" : "+w"(v.q[0]), "+w"(v.q[1]), "+w"(v.q[2]), "+w"(v.q[3]));
}
QC_INLINE Bytes set_bytes(int v) {
  const uint8x16_t one = vdupq_n_u8(static_cast<uint8_t>(v));
  return {{one, one, one, one}};
}
template <int kBits>
QC_INLINE uint8x16_t shift_right128(uint8x16_t v) {
  const uint16x8_t wide = vreinterpretq_u16_u8(v);
  if constexpr (kBits > 0) return vreinterpretq_u8_u16(vshrq_n_u16(wide, kBits));
  if constexpr (kBits < 0) return vreinterpretq_u8_u16(vshlq_n_u16(wide, -kBits));
  return v;
}
template <int kBits>
QC_INLINE Bytes shift_right(Bytes v) {
  return {{shift_right128<kBits>(v.q[0]), shift_right128<kBits>(v.q[1]),
           shift_right128<kBits>(v.q[2]), shift_right128<kBits>(v.q[3])}};
}
QC_INLINE Bytes add_bytes(Bytes x, Bytes y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vaddq_u8(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Bytes high_trits(Bytes v) {
  for (int i = 0; i < 4; ++i) {
    const int8x16_t s = vreinterpretq_s8_u8(v.q[i]);
    const uint8x16_t one = vcgtq_s8(s, vdupq_n_s8(kTritBorders[0]));
    const uint8x16_t two = vcgtq_s8(s, vdupq_n_s8(kTritBorders[1]));
    v.q[i] = vsubq_u8(vsubq_u8(vdupq_n_u8(0), one), two);
  }
  return v;
}
QC_INLINE Bytes bit_and(Bytes x, Bytes y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vandq_u8(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Bytes bit_or(Bytes x, Bytes y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vorrq_u8(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Bytes repeat16(const uint8_t* p) {
  const uint8x16_t one = vld1q_u8(p);
  return {{one, one, one, one}};
}
QC_INLINE Bytes lookup16(Bytes table, Bytes index) {  // of indices below 16
  for (int i = 0; i < 4; ++i) index.q[i] = vqtbl1q_u8(table.q[i], index.q[i]);
  return index;
}
// table[index & 15] where index >> 4 == high, else 0: tbl gives 0 for an index beyond the table.
QC_INLINE Bytes lookup16_where(Bytes table, Bytes index, int high) {
  const uint8x16_t first = vdupq_n_u8(static_cast<uint8_t>(16 * high));
  for (int i = 0; i < 4; ++i) index.q[i] = vqtbl1q_u8(table.q[i], vsubq_u8(index.q[i], first));
  return index;
}
// `other` where the index is `code`, else v
QC_INLINE Bytes replace_where(Bytes v, Bytes index, int code, Bytes other) {
  const uint8x16_t wanted = vdupq_n_u8(static_cast<uint8_t>(code));
  for (int i = 0; i < 4; ++i) {
    v.q[i] = vbslq_u8(vceqq_u8(index.q[i], wanted), other.q[i], v.q[i]);
  }
  return v;
}
// table[index] of 64, 128 and 256 bytes: tbx keeps what an index beyond its table leaves.
#define QC_HAS_BYTE_PERMUTE
QC_INLINE uint8x16x4_t four(Bytes t) { return {{t.q[0], t.q[1], t.q[2], t.q[3]}}; }
QC_INLINE Bytes lookup64(Bytes table, Bytes index) {
  for (int i = 0; i < 4; ++i) index.q[i] = vqtbl4q_u8(four(table), index.q[i]);
  return index;
}
QC_INLINE Bytes lookup128(Bytes low, Bytes high, Bytes index) {
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t u = index.q[i];
    index.q[i] = vqtbx4q_u8(vqtbl4q_u8(four(low), u), four(high), vsubq_u8(u, vdupq_n_u8(64)));
  }
  return index;
}
QC_INLINE Bytes lookup256(const Bytes (&t)[4], Bytes index) {
  Bytes v = lookup128(t[0], t[1], index);
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t u = vsubq_u8(index.q[i], vdupq_n_u8(128));
    v.q[i] = vqtbx4q_u8(v.q[i], four(t[2]), u);
    v.q[i] = vqtbx4q_u8(v.q[i], four(t[3]), vsubq_u8(u, vdupq_n_u8(64)));
  }
  return v;
}

QC_INLINE Ints set_ints(int32_t v) {
  const int32x4_t one = vdupq_n_s32(v);
  return {{one, one, one, one}};
}
QC_INLINE Ints load_ints(const int32_t* p) {
  return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
QC_INLINE Ints widen(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
           vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}
QC_INLINE Ints widen(const int8_t* p) {
  Ints v;
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  v.q[0] = vmovl_s16(vget_low_s16(low));
  v.q[1] = vmovl_s16(vget_high_s16(low));
  v.q[2] = vmovl_s16(vget_low_s16(high));
  v.q[3] = vmovl_s16(vget_high_s16(high));
  return v;
}
QC_INLINE Ints widen16(const uint8_t* p) {
  Ints v;
  for (int i = 0; i < 4; ++i) {
    v.q[i] = vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * i))));
  }
  return v;
}
QC_INLINE Bytes as_bytes(Ints v) {
  Bytes bytes;
  for (int i = 0; i < 4; ++i) bytes.q[i] = vreinterpretq_u8_s32(v.q[i]);
  return bytes;
}
template <int kBits>
QC_INLINE Ints shift_left(Ints v) {
  for (int i = 0; i < 4; ++i) v.q[i] = vshlq_n_s32(v.q[i], kBits);
  return v;
}
template <int kBits>
QC_INLINE Ints shift_right_signed(Ints v) {
  for (int i = 0; i < 4; ++i) v.q[i] = vshrq_n_s32(v.q[i], kBits);
  return v;
}
QC_INLINE Ints and_ints(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vandq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints min(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vminq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints max(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vmaxq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints sub(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vsubq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints add(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vaddq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints mul(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vmulq_s32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Ints add_saturating(Ints x, Ints y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vqaddq_s32(x.q[i], y.q[i]);
  return x;
}
// acc + u * x; where kIsWide, acc + (u - 128) * x.
template <bool kIsWide>
QC_INLINE Ints dot(Ints acc, Bytes u, Ints x) {
  const uint8x16_t flip = vdupq_n_u8(kIsWide ? 0x80 : 0);
  for (int i = 0; i < 4; ++i) {
    const int8x16_t codes = vreinterpretq_s8_u8(veorq_u8(u.q[i], flip));
    acc.q[i] = vdotq_s32(acc.q[i], codes, vreinterpretq_s8_s32(x.q[i]));
  }
  return acc;
}

#ifdef __ARM_FEATURE_MATMUL_INT8
#define QC_HAS_PAIRS
// Sums of two rows and four outputs 4i ... 4i+3, as smmla makes them: row 0 of two outputs, then
// row 1 of them.
struct PairSums {
  int32x4_t low[4], high[4];
};
QC_INLINE PairSums pair_sums(Ints x, Ints y) {
  PairSums sums;
  for (int i = 0; i < 4; ++i) {
    sums.low[i] = vcombine_s32(vget_low_s32(x.q[i]), vget_low_s32(y.q[i]));
    sums.high[i] = vcombine_s32(vget_high_s32(x.q[i]), vget_high_s32(y.q[i]));
  }
  return sums;
}
QC_INLINE void part_sums(const PairSums& sums, Ints* x, Ints* y) {
  for (int i = 0; i < 4; ++i) {
    x->q[i] = vcombine_s32(vget_low_s32(sums.low[i]), vget_low_s32(sums.high[i]));
    y->q[i] = vcombine_s32(vget_high_s32(sums.low[i]), vget_high_s32(sums.high[i]));
  }
}
// Two neighbouring groups of a tile with the 8 columns of an output side by side: two outputs a
// register, low of 4i and 4i+1, high of 4i+2 and 4i+3.
struct PairCodes {
  int8x16_t low[4], high[4];
};
template <bool kIsWide>
QC_INLINE PairCodes pair_codes(Bytes first, Bytes second) {
  const uint8x16_t flip = vdupq_n_u8(kIsWide ? 0x80 : 0);
  PairCodes codes;
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t a = vreinterpretq_u32_u8(veorq_u8(first.q[i], flip));
    const uint32x4_t b = vreinterpretq_u32_u8(veorq_u8(second.q[i], flip));
    codes.low[i] = vreinterpretq_s8_u32(vzip1q_u32(a, b));
    codes.high[i] = vreinterpretq_s8_u32(vzip2q_u32(a, b));
  }
  return codes;
}
QC_INLINE PairSums dot_pairs(PairSums sums, const PairCodes& codes, const int8_t* x,
                             const int8_t* y) {
  const int8x16_t rows = vcombine_s8(vld1_s8(x), vld1_s8(y));
  for (int i = 0; i < 4; ++i) {
    sums.low[i] = vmmlaq_s32(sums.low[i], rows, codes.low[i]);
    sums.high[i] = vmmlaq_s32(sums.high[i], rows, codes.high[i]);
  }
  return sums;
}
#endif

QC_INLINE Floats set_floats(float v) {
  const float32x4_t one = vdupq_n_f32(v);
  return {{one, one, one, one}};
}
QC_INLINE Floats load_floats(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
QC_INLINE Floats load_halves(const uint8_t* p) {
  Floats v;
  for (int i = 0; i < 4; ++i) {
    v.q[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i)));
  }
  return v;
}
QC_INLINE Floats to_floats(Ints v) {
  return {{vcvtq_f32_s32(v.q[0]), vcvtq_f32_s32(v.q[1]), vcvtq_f32_s32(v.q[2]),
           vcvtq_f32_s32(v.q[3])}};
}
QC_INLINE Floats as_floats(Ints v) {
  Floats f;
  for (int i = 0; i < 4; ++i) f.q[i] = vreinterpretq_f32_s32(v.q[i]);
  return f;
}
QC_INLINE Floats add(Floats x, Floats y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vaddq_f32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Floats mul(Floats x, Floats y) {
  for (int i = 0; i < 4; ++i) x.q[i] = vmulq_f32(x.q[i], y.q[i]);
  return x;
}
QC_INLINE Floats fmadd(Floats x, Floats y, Floats z) {
  for (int i = 0; i < 4; ++i) z.q[i] = vfmaq_f32(z.q[i], x.q[i], y.q[i]);
  return z;
}
// NaN where v is NaN.
QC_INLINE Floats min(Floats bound, Floats v) {
  for (int i = 0; i < 4; ++i) v.q[i] = vminq_f32(bound.q[i], v.q[i]);
  return v;
}
QC_INLINE Floats max(Floats bound, Floats v) {
  for (int i = 0; i < 4; ++i) v.q[i] = vmaxq_f32(bound.q[i], v.q[i]);
  return v;
}
QC_INLINE Ints round_to_ints(Floats v) {  // ties to even
  return {{vcvtnq_s32_f32(v.q[0]), vcvtnq_s32_f32(v.q[1]), vcvtnq_s32_f32(v.q[2]),
           vcvtnq_s32_f32(v.q[3])}};
}

QC_INLINE void store_ints(int32_t* p, Ints v, int64_t count) {
  int32_t copy[16];
  for (int i = 0; i < 4; ++i) vst1q_s32((count >= 16 ? p : copy) + 4 * i, v.q[i]);
  if (count < 16) std::memcpy(p, copy, static_cast<size_t>(count) * 4);
}
QC_INLINE void store_floats(float* p, Floats v, int64_t count) {
  float copy[16];
  for (int i = 0; i < 4; ++i) vst1q_f32((count >= 16 ? p : copy) + 4 * i, v.q[i]);
  if (count < 16) std::memcpy(p, copy, static_cast<size_t>(count) * 4);
}
QC_INLINE void store_low_bytes(uint8_t* p, Ints v, int64_t count) {  // of 0 ... 255
  const int16x8_t low = vcombine_s16(vmovn_s32(v.q[0]), vmovn_s32(v.q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(v.q[2]), vmovn_s32(v.q[3]));
  const uint8x16_t bytes =
      vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  if (count >= 16) return vst1q_u8(p, bytes);
  uint8_t copy[16];
  vst1q_u8(copy, bytes);
  std::memcpy(p, copy, static_cast<size_t>(count));
}

}  // namespace
}  // namespace qcompile
