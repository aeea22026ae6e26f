// SPDX-License-Identifier: Apache-2.0
// y = sum of x * decoded weight + bias, N14, one number at a time.
#include "epilogue.h"
#include "weight_elements.h"

namespace qcompile {

void matmul_f32_n16k4__scalar(matmul_f32_n16k4_args& a) {
  const Weight& w = *a.weight;
  const int tiles = n16k4_tiles(w, a.panel);
  const int64_t left = w.N - a.panel * kPanel, outputs = left < kPanel ? left : kPanel;
  for (int64_t m = 0; m < a.num_rows; ++m) {
    for (int64_t n = 0; n < outputs; ++n) {
      const uint8_t* stream = n16k4_panel(w, a.panel);
      float sum = 0;
      for (int64_t block = 0; block < w.num_blocks; ++block) {
        const uint8_t* scales = stream + n16k4_block_code_bytes(w, block, tiles);
        const float scale = w.level_bytes ? 1 : read_scale(w, scales, n);
        const int32_t zero_point =
            point_bytes(w) ? n16k4_points(w, stream, scales, tiles)[n] : 0;
        float part = 0;
        for (int64_t k = 0; k < w.columns_of(block); ++k) {
          const uint32_t code = n16k4_code(w, stream, tiles, n, k, zero_point);
          const float value = w.level_bytes ? level_of(w, stream, tiles, n, code)
                                            : float_value(w, code, zero_point);
          part += a.x_rows[m][block * w.block_size + k] * value;
        }
        sum += scale * part;
        stream += n16k4_block_bytes(w, block, tiles);
      }
      const float bias = a.bias ? a.bias[n] : 0.0f;
      a.y[m * a.y_stride + n] = clip(sum + bias, a.clip_min, a.clip_max);
    }
  }
}

}  // namespace qcompile
