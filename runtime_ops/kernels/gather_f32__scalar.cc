// SPDX-License-Identifier: Apache-2.0
// One row of a decoded weight, N23: an exact small integer times a scale, one rounding.
#include "weight_elements.h"
#include "kernels.h"

namespace qcompile {

namespace {

// The codes of columns 4 * group ... + 3 of a block for one output of a panel, a byte each;
// `codes` points at the output's 4 bytes of the block's first vector.
inline uint32_t group_codes(const uint8_t* codes, int64_t chunk_bytes, int bits, int64_t group) {
  const int smallest = smallest_field(bits), groups = 8 / smallest;
  const uint8_t* vector = codes + group / groups * chunk_bytes;
  const int in_chunk = static_cast<int>(group % groups);
  uint32_t result = 0;
  int shift = 0;
  for (int width : kBitFields[bits].width) {
    if (width == 0) break;
    const int slots = 8 / width;
    uint32_t word;
    std::memcpy(&word, vector + in_chunk / slots * 64, 4);
    const uint32_t mask = ((1u << width) - 1) * 0x01010101u;
    result |= ((word >> (in_chunk % slots * width)) & mask) << shift;
    shift += width;
    vector += width / smallest * 64;
  }
  return result;
}

// As above, of trits.
inline uint32_t group_trits(const uint8_t* codes, int64_t chunk_bytes, int64_t group) {
  const uint8_t* vector = codes + group / kTritsOfByte * chunk_bytes;
  uint32_t result = 0;
  for (int i = 0; i < kGroup; ++i) result |= trit_of(vector[i], group % kTritsOfByte) << (8 * i);
  return result;
}

// One block of one row; kBits is constant, so that the fields are.
template <int kBits>
void gather_block(const Weight& w, const uint8_t* codes, int tiles, int64_t columns,
                  int32_t zero_point, float scale, float* y) {
  const int64_t chunk_bytes = tiles * tile_chunk_bytes(kBits);
  for (int64_t k = 0; k < columns; k += kGroup) {
    const uint32_t four = kBits == kTrits ? group_trits(codes, chunk_bytes, k / kGroup)
                                          : group_codes(codes, chunk_bytes, kBits, k / kGroup);
    const int64_t count = columns - k < kGroup ? columns - k : kGroup;
    for (int64_t i = 0; i < count; ++i) {
      y[k + i] = float_value(w, (four >> (8 * i)) & 255u, zero_point) * scale;
    }
  }
}
// Of sparse codes and quints, read one by one; `codes` points at the block, n is in its panel.
void gather_literally(const Weight& w, const uint8_t* codes, int tiles, int64_t n, int64_t columns,
                      int32_t zero_point, float scale, float* y) {
  for (int64_t k = 0; k < columns; ++k) {
    y[k] = float_value(w, n16k4_code(w, codes, tiles, n, k, zero_point), zero_point) * scale;
  }
}

using GatherBlock = void (*)(const Weight&, const uint8_t*, int, int64_t, int32_t, float, float*);
constexpr GatherBlock kGatherBlock[] = {
    nullptr,         gather_block<1>, gather_block<2>, gather_block<3>, gather_block<4>,
    gather_block<5>, gather_block<6>, gather_block<7>, gather_block<8>, gather_block<kTrits>};

}  // namespace

void gather_f32_n16k4__scalar(gather_f32_n16k4_args& a) {
  const Weight& w = *a.weight;
  const int64_t panel = a.row / kPanel, n = a.row % kPanel;
  const int tiles = n16k4_tiles(w, panel);
  const uint8_t* stream = n16k4_panel(w, panel);
  const int64_t tile_bytes = tile_chunk_bytes(w.bits);
  const bool is_literal = is_sparse(w.bits) || w.bits == kQuints;
  float* y = a.y;
  for (int64_t block = 0; block < w.num_blocks; ++block) {
    const uint8_t* scales = stream + n16k4_block_code_bytes(w, block, tiles);
    const float scale = read_scale(w, scales, n);
    const int32_t zero_point = point_bytes(w) ? n16k4_points(w, stream, scales, tiles)[n] : 0;
    const int64_t columns = w.columns_of(block);
    if (is_literal) {
      gather_literally(w, stream, tiles, n, columns, zero_point, scale, y);
    } else {
      kGatherBlock[w.bits](w, stream + n / kTile * tile_bytes + n % kTile * kGroup, tiles, columns,
                           zero_point, scale, y);
    }
    y += columns;
    stream += n16k4_block_bytes(w, block, tiles);
  }
}

void gather_f32_rows__scalar(gather_f32_rows_args& a) {
  const Weight& w = *a.weight;
  const uint8_t* row = w.data + a.row * rows_row_bytes(w);
  const uint8_t* scales = row + bit_string_bytes(w.K, w.bits);
  const uint8_t* zero_points = scales + w.num_blocks * w.scale_bytes;
  for (int64_t block = 0; block < w.num_blocks; ++block) {
    const float scale = read_scale(w, scales, block);
    const int32_t zero_point = point_bytes(w) ? zero_points[block] : 0;
    const int64_t first = block * w.block_size;
    for (int64_t k = first; k < first + w.columns_of(block); ++k) {
      a.y[k] = float_value(w, bit_string_code(row, k, w.bits), zero_point) * scale;
    }
  }
}

}  // namespace qcompile
