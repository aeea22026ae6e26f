// SPDX-License-Identifier: Apache-2.0
// One code, scale or zero point of a packed weight: slow, literal readings of docs/layouts.md for
// the scalar kernels. Everything is static: a copy compiled with SIMD flags must never be the one
// that the linker gives to the scalar kernels.
#pragma once

#include <cstring>

#include "weight.h"

namespace qcompile {
namespace {

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  uint32_t bits;
  if (exponent == 0) {
    // Denormal: mantissa * 2^-24, exact in f32.
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &magnitude, 4);
  } else {
    const uint32_t e = exponent == 31 ? 255u : exponent + 112u;
    bits = (e << 23) | (mantissa << 13);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The stored scale `index`, times the tensor's; 1 where none are stored.
inline float read_scale(const Weight& w, const uint8_t* scales, int64_t index) {
  const uint8_t* at = scales + index * w.scale_bytes;
  uint16_t half;
  float value = 1;
  switch (w.scale_format) {
    case ScaleFormat::kNone: return 1;
    case ScaleFormat::kE8m0: value = float_of_bits(uint32_t{*at} << 23); break;
    case ScaleFormat::kUe4m3: {
      // The least exponent has no leading one: its numbers are mantissa * 2^-9.
      const uint32_t mantissa = *at & 7u, exponent = *at >> 3;
      value = exponent ? float_of_bits((exponent + 120u) << 23 | mantissa << 20)
                       : static_cast<float>(mantissa) * 0x1p-9f;
      break;
    }
    case ScaleFormat::kF16:
    case ScaleFormat::kBf16:
      std::memcpy(&half, at, 2);
      value = w.scale_format == ScaleFormat::kF16 ? f16_to_f32(half)
                                                  : float_of_bits(uint32_t{half} << 16);
      break;
    case ScaleFormat::kF32: std::memcpy(&value, at, 4);
  }
  return value * w.tensor_scale;
}

// Code `index` of a bit string, least significant bit first.
inline uint32_t bit_string_code(const uint8_t* string, int64_t index, int bits) {
  const int64_t at = index * bits;
  const int shift = static_cast<int>(at % 8);
  uint32_t code = static_cast<uint32_t>(string[at / 8]) >> shift;
  if (shift + bits > 8) code |= static_cast<uint32_t>(string[at / 8 + 1]) << (8 - shift);
  return code & ((1u << bits) - 1);
}

// Trit `index` of a byte.
inline uint32_t trit_of(uint32_t byte, int64_t index) {
  for (; index > 0; --index) byte = 3 * byte & 255u;
  const int first = static_cast<int8_t>(byte);
  return static_cast<uint32_t>(first > kTritBorders[0]) + (first > kTritBorders[1]);
}

// Quint `index` of a number's byte, 2 * number.
inline uint32_t quint_of(uint32_t byte, int64_t index) {
  for (; index > 0; --index) byte = 5 * byte & 255u;
  const int first = static_cast<int8_t>(byte);
  uint32_t quint = 0;
  for (int border : kQuintBorders) quint += first > border;
  return quint;
}

// The code in `slot` of byte `byte` of bit fields in vectors of `vector_bytes`.
inline uint32_t fields_code(const uint8_t* vector, int bits, int vector_bytes, int64_t slot,
                            int64_t byte) {
  const int smallest = smallest_field(bits);
  uint32_t code = 0;
  int shift = 0;
  for (int width : kBitFields[bits].width) {
    if (width == 0) break;
    const int64_t slots = 8 / width;
    const uint32_t field = vector[slot / slots * vector_bytes + byte] >> (slot % slots * width);
    code |= (field & ((1u << width) - 1)) << shift;
    shift += width;
    vector += width / smallest * vector_bytes;
  }
  return code;
}

// Of a chunk of one tile: the code of output n and column k, which a mask may leave out. A mask of
// a damaged file may have more than two bits of four: the last code of the output serves for them.
inline uint32_t sparse_code(const Weight& w, const uint8_t* chunk, int64_t n, int64_t k,
                            int32_t zero_point) {
  const int bits = code_bits(w.bits);
  const uint8_t* mask = chunk + tile_field_bytes(w.bits) + k / kGroup * 8;
  const uint32_t four = mask[n / 2] >> (n % 2 * kGroup) & 15u, bit = 1u << k % kGroup;
  if (!(four & bit)) return static_cast<uint32_t>(w.has_zero_point ? zero_point : w.zero_code);
  const int64_t before = (four & (bit - 1)) != 0;
  return fields_code(chunk, bits, kGroupBytes / 2, k / kGroup, 2 * n + before);
}

// Code of output `n` of a panel, column `k` of a block; `block` points at the block's bytes.
inline uint32_t n16k4_code(const Weight& w, const uint8_t* block, int tiles, int64_t n, int64_t k,
                           int32_t zero_point) {
  const int64_t columns = chunk_columns(w.bits), group = k % columns / kGroup;
  const uint8_t* chunk = block + (k / columns * tiles + n / kTile) * tile_chunk_bytes(w.bits);
  const int64_t byte = n % kTile * kGroup + k % kGroup;
  if (w.bits == kTrits) return trit_of(chunk[byte], group);
  if (w.bits == kQuints) {
    const uint32_t number =
        fields_code(chunk, kQuintBits, kGroupBytes, group / kQuintsOfNumber, byte);
    return quint_of(2 * number, group % kQuintsOfNumber);
  }
  if (is_sparse(w.bits)) return sparse_code(w, chunk, n % kTile, k % columns, zero_point);
  return fields_code(chunk, w.bits, kGroupBytes, group, byte);
}

// value - zero_point of an integer, or the table's value: what integer products multiply. `point`
// is the zero point, or the special value's bit pattern.
inline int32_t integer_value(const Weight& w, uint32_t code, int32_t point) {
  if (w.has_special && code == static_cast<uint32_t>(w.special_code)) {
    return static_cast<int8_t>(point);
  }
  if (w.float_table) return static_cast<int32_t>(w.float_table[code]);
  return static_cast<int32_t>(code) - (w.has_zero_point ? point : w.offset);
}

// The unscaled value as float, exact.
inline float float_value(const Weight& w, uint32_t code, int32_t point) {
  if (w.float_table && !w.has_special) return w.float_table[code];
  return static_cast<float>(integer_value(w, code, point));
}

// The level of a code of output `n` of a panel; `codes` points at the codes of the block.
inline float level_of(const Weight& w, const uint8_t* codes, int tiles, int64_t n, uint32_t code) {
  const uint8_t* levels = codes - n16k4_lead_bytes(w, tiles);
  const uint8_t* at = levels + ((n << w.bits) + code) * w.level_bytes;
  if (w.scale_format == ScaleFormat::kF16) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return f16_to_f32(half);
  }
  float value;
  std::memcpy(&value, at, 4);
  return value;
}

}  // namespace
}  // namespace qcompile
