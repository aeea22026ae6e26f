// SPDX-License-Identifier: Apache-2.0
// A packed weight as the kernels see it, and the places of its parts (docs/layouts.md).
// Sizes here are trusted: ops/weight_input.cc checks them against the buffer first.
#pragma once

#include <cstdint>

namespace qcompile {

constexpr int kTile = 16;           // outputs of one 64-byte vector
constexpr int kPanelTiles = 4;      // tiles of a full panel
constexpr int kPanel = kTile * kPanelTiles;
constexpr int kGroup = 4;           // columns of one 64-byte vector
constexpr int kGroupBytes = 64;     // bytes of one decoded group of a tile

// The widths of the bit fields of a b-bit code, largest first; 0 ends the list.
struct BitFields {
  int width[3];
};
constexpr BitFields kBitFields[9] = {{{0, 0, 0}}, {{1, 0, 0}}, {{2, 0, 0}}, {{2, 1, 0}},
                                     {{4, 0, 0}}, {{4, 1, 0}}, {{4, 2, 0}}, {{4, 2, 1}},
                                     {{8, 0, 0}}};

constexpr int smallest_field(int bits) {
  const BitFields f = kBitFields[bits];
  return f.width[2] ? f.width[2] : f.width[1] ? f.width[1] : f.width[0];
}
// In the place of bits, in n16k4 alone: five codes of 0 ... 2 in a byte (docs/layouts.md).
constexpr int kTrits = 9;
constexpr int kTritsOfByte = 5;
// The first trit of a byte, as a signed one, is how many of these it is above.
constexpr int8_t kTritBorders[2] = {-43, 42};
// In the place of bits, in n16k4q alone: three codes of 0 ... 4 in 7 bits.
constexpr int kQuints = 10;
constexpr int kQuintBits = 7;
constexpr int kQuintsOfNumber = 3;
// The first quint of a number's byte, as a signed one, is how many of these it is above.
constexpr int8_t kQuintBorders[4] = {-77, -26, 25, 76};
// Added to the bits of a code, in n16k4s alone: two codes of every four columns, and a mask.
constexpr int kSparse = 16;
constexpr bool is_sparse(int bits) { return bits >= kSparse; }
constexpr int code_bits(int bits) { return bits % kSparse; }
constexpr int chunk_columns(int bits) {
  return bits == kTrits    ? kTritsOfByte * kGroup
         : bits == kQuints ? kQuintsOfNumber * 32
                           : 32 / smallest_field(code_bits(bits));
}
// Bytes of the bit fields of a chunk of one tile.
constexpr int tile_field_bytes(int bits) {
  const int dense = kGroupBytes * code_bits(bits) / smallest_field(code_bits(bits));
  return is_sparse(bits) ? dense / 2 : dense;
}
// Bytes of a chunk of one tile: where codes are sparse 8 bytes of mask a group, behind the fields.
constexpr int tile_chunk_bytes(int bits) {
  return bits == kTrits    ? kGroupBytes
         : bits == kQuints ? kGroupBytes * kQuintBits
         : is_sparse(bits) ? tile_field_bytes(bits) + chunk_columns(bits) / kGroup * 8
                           : tile_field_bytes(bits);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a scale is stored (docs/layouts.md); in the order of the bytes.
enum class ScaleFormat { kNone, kE8m0, kUe4m3, kF16, kBf16, kF32 };
constexpr int bytes_of(ScaleFormat format) {
  return format == ScaleFormat::kNone ? 0
         : format < ScaleFormat::kF16 ? 1
         : format < ScaleFormat::kF32 ? 2
                                      : 4;
}

struct Weight {
  const uint8_t* data = nullptr;
  int64_t N = 0, K = 0;
  int64_t block_size = 0;   // columns of a full block; K where the attribute is 0
  int64_t num_blocks = 0;
  int bits = 0;             // or kTrits, kQuints, kSparse + bits
  ScaleFormat scale_format = ScaleFormat::kNone;
  int scale_bytes = 0;      // of one scale
  float tensor_scale = 1;   // what every stored scale is multiplied by, in one rounding
  bool has_zero_point = false;
  // Every output and block has an own value of the code special_code, a signed byte in the place of
  // the zero point (BitMoD).
  bool has_special = false;
  int special_code = 0;
  // Where at most four special values are possible, else null: 64 bytes, those of all codes with
  // special value number i from 16 i on; and for each stored byte, of 256, 16 times its number.
  const uint8_t* special_table = nullptr;
  const uint8_t* special_places = nullptr;
  // Bytes of one level where every output and block has 2^bits of its own (n16k4c), stored as
  // scale_format says; else 0.
  int level_bytes = 0;
  // Integer products: value = byte - offset, byte = table ? byte_table[u] : u. With zero points the
  // stored one takes the place of offset.
  int32_t offset = 0;
  int32_t zero_code = 0;    // sparse codes without zero points: u of the columns left out
  int32_t max_byte = 0;     // the largest byte: 127 or less fits a signed operand and vpmaddubsw
  const uint8_t* byte_table = nullptr;
  // Of tables beyond int8: value = 256 * (high byte - high_offset) + byte, both by a table.
  const uint8_t* high_table = nullptr;
  int32_t high_offset = 0;
  int32_t largest_entry = 0;  // of their magnitudes
  // Float products and gathers: the value of every u (null for integers).
  const float* float_table = nullptr;

  int64_t columns_of(int64_t block) const {
    const int64_t first = block * block_size;
    return K - first < block_size ? K - first : block_size;
  }
  int64_t padded_columns_of(int64_t block) const {
    const int64_t chunk = chunk_columns(bits);
    return ceil_div(columns_of(block), chunk) * chunk;
  }
};

inline bool is_wide(const Weight& w) { return w.max_byte > 127; }
// Whether a block has a byte an output besides scales: a zero point or a special value.
inline int64_t point_bytes(const Weight& w) { return w.has_zero_point || w.has_special ? 1 : 0; }

// ---- n16k4 ----
inline int64_t n16k4_num_panels(const Weight& w) { return ceil_div(w.N, kPanel); }
inline int n16k4_tiles(const Weight& w, int64_t panel) {
  const int64_t outputs = w.N - panel * kPanel;
  return outputs >= kPanel ? kPanelTiles : static_cast<int>(ceil_div(outputs, kTile));
}
inline int64_t n16k4_block_code_bytes(const Weight& w, int64_t block, int tiles) {
  return tiles * (w.padded_columns_of(block) / chunk_columns(w.bits)) * tile_chunk_bytes(w.bits);
}
inline int64_t n16k4_block_bytes(const Weight& w, int64_t block, int tiles) {
  return n16k4_block_code_bytes(w, block, tiles) +
         tiles * kTile * (w.scale_bytes + point_bytes(w) + (w.level_bytes << w.bits));
}
inline int64_t n16k4_panel_bytes(const Weight& w, int tiles) {
  // All blocks but the last are full.
  return (w.num_blocks - 1) * n16k4_block_bytes(w, 0, tiles) +
         n16k4_block_bytes(w, w.num_blocks - 1, tiles);
}
// Special values and levels stand before the codes of their block: a product cannot begin a block
// without them, and what lies before has come from memory. Zero points are behind the scales.
inline int64_t n16k4_lead_bytes(const Weight& w, int tiles) {
  return tiles * kTile * (w.has_special ? 1 : w.level_bytes << w.bits);
}
// The codes of a panel's first block. Those of each block are n16k4_block_bytes on.
inline const uint8_t* n16k4_panel(const Weight& w, int64_t panel) {
  return w.data + panel * n16k4_panel_bytes(w, kPanelTiles) +
         n16k4_lead_bytes(w, n16k4_tiles(w, panel));
}
// The zero points or special values of a block, where there are any.
inline const uint8_t* n16k4_points(const Weight& w, const uint8_t* codes, const uint8_t* scales,
                                   int tiles) {
  return w.has_special ? codes - n16k4_lead_bytes(w, tiles)
                       : scales + tiles * kTile * w.scale_bytes;
}
inline int64_t n16k4_bytes(const Weight& w) {
  const int64_t last = n16k4_num_panels(w) - 1;
  return last * n16k4_panel_bytes(w, kPanelTiles) + n16k4_panel_bytes(w, n16k4_tiles(w, last));
}

// ---- bit strings: kc and rows ----
inline int64_t bit_string_bytes(int64_t count, int bits) { return ceil_div(count * bits, 8); }
inline int64_t kc_bytes(const Weight& w) {
  return w.K * bit_string_bytes(w.N, w.bits) + w.N * (w.scale_bytes + point_bytes(w));
}
inline int64_t rows_row_bytes(const Weight& w) {
  return bit_string_bytes(w.K, w.bits) + w.num_blocks * (w.scale_bytes + point_bytes(w));
}

}  // namespace qcompile
