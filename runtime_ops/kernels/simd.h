// SPDX-License-Identifier: Apache-2.0
// The vectors that kernels are written in: 64 codes, 16 int32 or 16 floats, one register with
// AVX-512, two with AVX2 and four with NEON (simd_ISA.h). Everything is in an unnamed namespace:
// each file that includes this is compiled for its own ISA and must not share code with the others.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "weight.h"

#define QC_INLINE inline __attribute__((always_inline))

#ifdef __aarch64__
#include "simd_neon.h"
#elif defined(__AVX512VNNI__)
#include "simd_avx512vnni.h"
#else
#include "simd_avx2.h"
#endif

namespace qcompile {
namespace {

template <class F, int... kI>
QC_INLINE void unroll_over(const F& f, std::integer_sequence<int, kI...>) {
  (f(std::integral_constant<int, kI>()), ...);
}
// f(0) ... f(kCount - 1) with constant arguments.
template <int kCount, class F>
QC_INLINE void unroll(const F& f) {
  unroll_over(f, std::make_integer_sequence<int, kCount>());
}
#define QC_UNROLLED(i) [&](auto i) __attribute__((always_inline))

QC_INLINE int32_t load_int(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

#ifndef __aarch64__
constexpr bool kIsSignedDot = false;
#endif
#ifdef QC_HAS_WORDS
constexpr bool kHasWords = true;
#else
constexpr bool kHasWords = false;
#endif
#ifdef QC_HAS_PACK
constexpr bool kHasPack = true;
#else
constexpr bool kHasPack = false;
#endif
#ifdef QC_HAS_MANY_SUMS
constexpr bool kHasManySums = true;
#else
constexpr bool kHasManySums = false;
#endif

// Numbers of the positive half of E4M3. As a float of twice the exponent range, subnormals are too
// large by what 2c - 2^-6 takes off, and the others are less than that: no denormal float is used.
QC_INLINE Floats load_ue4m3(const uint8_t* p) {
  const Floats c = as_floats(add(shift_left<20>(widen(p)), set_ints(120 << 23)));
  return min(c, add(add(c, c), set_floats(-0x1p-6f)));
}
QC_INLINE Floats load_stored_scales(const Weight& w, const uint8_t* p) {
  switch (w.scale_format) {
    case ScaleFormat::kF16: return load_halves(p);
    case ScaleFormat::kBf16: return as_floats(shift_left<16>(widen16(p)));
    case ScaleFormat::kE8m0: return as_floats(shift_left<23>(widen(p)));
    case ScaleFormat::kUe4m3: return load_ue4m3(p);
    default: return load_floats(reinterpret_cast<const float*>(p));
  }
}
// 16 scales, each times the tensor's.
QC_INLINE Floats load_scales(const Weight& w, const uint8_t* p) {
  return mul(load_stored_scales(w, p), set_floats(w.tensor_scale));
}

// N11 of 16 outputs from acc + bias on.
struct Requantizer {
  Floats low, high;
  Ints zero_point;
  Requantizer(int32_t y_zero_point, int32_t y_min, int32_t y_max)
      : low(set_floats(static_cast<float>(y_min - y_zero_point))),
        high(set_floats(static_cast<float>(y_max - y_zero_point))),
        zero_point(set_ints(y_zero_point)) {}
  QC_INLINE Ints operator()(Ints total, Floats multiplier) const {
    return (*this)(to_floats(total), multiplier);
  }
  QC_INLINE Ints operator()(Floats total, Floats multiplier) const {
    return add(rounded(total, multiplier), zero_point);
  }
  // Before the zero point.
  QC_INLINE Ints rounded(Ints total, Floats multiplier) const {
    return rounded(to_floats(total), multiplier);
  }
  QC_INLINE Ints rounded(Floats total, Floats multiplier) const {
    const Floats scaled = mul(total, multiplier);
    // The bounds are integers and rounding is monotone: clamping first gives the same code.
    return round_to_ints(min(high, max(low, scaled)));
  }
};

// The code group `kGroup` of a chunk of one tile (docs/layouts.md); `tile` points at its vectors.
template <int kBits, int kWidth, int kFirstVector, int kTo, int kGroupIndex>
QC_INLINE Bytes decode_field(const uint8_t* tile) {
  constexpr int kSlots = 8 / kWidth;
  constexpr int kShift = kGroupIndex % kSlots * kWidth;
  const Bytes v = load_bytes(tile + 64 * (kFirstVector + kGroupIndex / kSlots));
  if constexpr (kWidth == 8) return v;
  return bit_and(shift_right<kShift - kTo>(v), set_bytes(((1 << kWidth) - 1) << kTo));
}
template <int kBits, int kGroupIndex>
QC_INLINE Bytes decode_fields(const uint8_t* tile) {
  constexpr BitFields kFields = kBitFields[kBits];
  constexpr int kSmallest = smallest_field(kBits);
  constexpr int kA = kFields.width[0], kB = kFields.width[1], kC = kFields.width[2];
  Bytes u = decode_field<kBits, kA, 0, 0, kGroupIndex>(tile);
  if constexpr (kB > 0) {
    u = bit_or(u, decode_field<kBits, kB, kA / kSmallest, kA, kGroupIndex>(tile));
  }
  if constexpr (kC > 0) {
    u = bit_or(u, decode_field<kBits, kC, (kA + kB) / kSmallest, kA + kB, kGroupIndex>(tile));
  }
  return u;
}
// v · 3^kTimes mod 256, which keeps the 128 that every byte of trits has too much; the steps on the way are computed once for all groups of a chunk.
template <int kTimes>
QC_INLINE Bytes tripled(Bytes v) {
  if constexpr (kTimes == 0) {
    return v;
  } else {
    const Bytes before = tripled<kTimes - 1>(v);
    return add_bytes(before, add_bytes(before, before));
  }
}

// As above, v · 5^kTimes mod 256.
template <int kTimes>
QC_INLINE Bytes times_five(Bytes v) {
  if constexpr (kTimes == 0) {
    return v;
  } else {
    const Bytes before = times_five<kTimes - 1>(v), twice = add_bytes(before, before);
    return add_bytes(before, add_bytes(twice, twice));
  }
}
// The number of a group's quints as a byte, with 128 too much, which times_five keeps.
template <int kGroupIndex>
QC_INLINE Bytes quint_number(const uint8_t* tile) {
  const Bytes number = decode_fields<kQuintBits, kGroupIndex / kQuintsOfNumber>(tile);
  return add_bytes(number, number);
}

// Bit fields of 32 outputs' halves: two codes of each of 16 outputs.
template <int kWidth, int kFirstVector, int kTo, int kGroupIndex>
QC_INLINE Half decode_half_field(const uint8_t* tile) {
  constexpr int kSlots = 8 / kWidth, kShift = kGroupIndex % kSlots * kWidth;
  const Half v = load_half(tile + kGroupBytes / 2 * (kFirstVector + kGroupIndex / kSlots));
  return and_half(shift_half<kShift - kTo>(v), set_half(((1 << kWidth) - 1) << kTo));
}
template <int kBits, int kGroupIndex>
QC_INLINE Half decode_half(const uint8_t* tile) {
  constexpr BitFields kFields = kBitFields[kBits];
  constexpr int kSmallest = smallest_field(kBits);
  constexpr int kA = kFields.width[0], kB = kFields.width[1];
  static_assert(kFields.width[2] == 0, "sparse codes have at most two fields");
  Half u = decode_half_field<kA, 0, 0, kGroupIndex>(tile);
  if constexpr (kB > 0) {
    u = or_half(u, decode_half_field<kB, kA / kSmallest, kA, kGroupIndex>(tile));
  }
  return u;
}

// `zeros`: u of the columns that sparse codes leave out; others do not read it.
template <int kBits, int kGroupIndex>
QC_INLINE Bytes decode_group(const uint8_t* tile, Bytes zeros) {
  if constexpr (kBits == kTrits) {
    return high_trits(tripled<kGroupIndex>(load_bytes(tile)));
  } else if constexpr (kBits == kQuints) {
    constexpr int kTimes = kGroupIndex % kQuintsOfNumber;
    return high_quints(times_five<kTimes>(quint_number<kGroupIndex>(tile)));
  } else if constexpr (is_sparse(kBits)) {
    const uint8_t* mask = tile + tile_field_bytes(kBits) + 8 * kGroupIndex;
    return expand(decode_half<code_bits(kBits), kGroupIndex>(tile), mask, zeros);
  } else {
    return decode_fields<kBits, kGroupIndex>(tile);
  }
}
// `zeros` of a tile whose zero points lie at `zero_points`.
template <int kBits>
QC_INLINE Bytes zeros_of(const Weight& w, const uint8_t* zero_points) {
  if constexpr (!is_sparse(kBits)) return set_bytes(0);
  if (!w.has_zero_point) return set_bytes(w.zero_code);
  return as_bytes(mul(widen(zero_points), set_ints(0x01010101)));
}
template <int kBits>
constexpr int kGroupsOfChunk = chunk_columns(kBits) / kGroup;
template <int kBits>
constexpr int kTileChunkBytes = tile_chunk_bytes(kBits);

}  // namespace
}  // namespace qcompile
