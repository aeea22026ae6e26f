// SPDX-License-Identifier: Apache-2.0
// One row of a decoded weight, N23: an exact small integer times a scale, one rounding.
#include "weight_elements.h"
#include "kernels.h"

namespace qcompile {

void gather_f32_n16k4__scalar(gather_f32_n16k4_args& a) {
  const Weight& w = *a.weight;
  const int64_t panel = a.row / kPanel, n = a.row % kPanel;
  const int tiles = n16k4_tiles(w, panel);
  const uint8_t* stream = n16k4_panel(w, panel);
  float* y = a.y;
  for (int64_t block = 0; block < w.num_blocks; ++block) {
    const uint8_t* scales = stream + n16k4_block_code_bytes(w, block, tiles);
    const float scale = read_scale(scales, n, w.scale_bytes);
    const int32_t zero_point = w.has_zero_point ? scales[tiles * kTile * w.scale_bytes + n] : 0;
    for (int64_t k = 0; k < w.columns_of(block); ++k) {
      *y++ = float_value(w, n16k4_code(stream, tiles, w.bits, n, k), zero_point) * scale;
    }
    stream += n16k4_block_bytes(w, block, tiles);
  }
}

void gather_f32_rows__scalar(gather_f32_rows_args& a) {
  const Weight& w = *a.weight;
  const uint8_t* row = w.data + a.row * rows_row_bytes(w);
  const uint8_t* scales = row + bit_string_bytes(w.K, w.bits);
  const uint8_t* zero_points = scales + w.num_blocks * w.scale_bytes;
  for (int64_t k = 0; k < w.K; ++k) {
    const int64_t block = k / w.block_size;
    const int32_t zero_point = w.has_zero_point ? zero_points[block] : 0;
    a.y[k] = float_value(w, bit_string_code(row, k, w.bits), zero_point) *
             read_scale(scales, block, w.scale_bytes);
  }
}

}  // namespace qcompile
