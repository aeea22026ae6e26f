// SPDX-License-Identifier: Apache-2.0
// y = epilogue(sum of x * (code - zero_point)), one number at a time, 64-bit sums: no K is too long.
#include "dyadic.h"
#include "epilogue.h"
#include "weight_elements.h"

namespace qcompile {
namespace {

struct BlockView {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* zero_points;
};

BlockView view_block(const Weight& w, const uint8_t* stream, int64_t block, int tiles) {
  const uint8_t* scales = stream + n16k4_block_code_bytes(w, block, tiles);
  return {stream, scales, n16k4_points(w, stream, scales, tiles)};
}

int64_t block_sum(const matmul_s8_n16k4_args& a, const BlockView& view, int64_t block, int tiles,
                  int64_t m, int64_t n) {
  const Weight& w = *a.weight;
  const int32_t zero_point = point_bytes(w) ? view.zero_points[n] : 0;
  int64_t acc = 0, k = 0;
  for (int64_t r = block ? a.run_ends[block - 1] : 0; r < a.run_ends[block]; ++r) {
    const int8_t* x = a.x_rows[m] + a.runs[r].x_offset;
    for (int64_t i = 0; i < a.runs[r].num_groups * kGroup && k < w.columns_of(block); ++i, ++k) {
      acc += x[i] * integer_value(w, n16k4_code(w, view.codes, tiles, n, k, zero_point), zero_point);
    }
  }
  return acc;
}

void store(const matmul_s8_n16k4_args& a, int64_t m, int64_t n, int64_t acc, float sum) {
  const Epilogue& e = a.epilogue;
  const int64_t at = m * a.y_stride + n;
  if (e.output == Output::kRequantized) {
    const int32_t bias = e.bias_codes ? e.bias_codes[n] : 0;
    static_cast<uint8_t*>(a.y)[at] =
        requantize_f32(acc + e.correction[n], bias, e.multiplier[n], e);
  } else if (e.output == Output::kScaled) {
    const int32_t bias = e.bias_codes ? e.bias_codes[n] : 0;
    static_cast<float*>(a.y)[at] = scaled_f32(acc + e.correction[n], bias, e.multiplier[n], e);
  } else if (is_dyadic(e.output)) {
    const int32_t bias = e.bias_codes ? e.bias_codes[n] : 0;
    const int32_t total = saturate_int32(acc + e.correction[n] + bias);
    finish_dyadic(&total, 1, e, n, a.y, at);
  } else if (e.output == Output::kFloat) {
    const float bias = e.bias ? e.bias[n] : 0.0f;
    static_cast<float*>(a.y)[at] = finish_float(sum, e.x_scales[m], bias, e);
  } else {
    static_cast<int32_t*>(a.y)[at] = saturate_int32(acc);
  }
}

}  // namespace

void matmul_s8_n16k4__scalar(matmul_s8_n16k4_args& a) {
  const Weight& w = *a.weight;
  const int tiles = n16k4_tiles(w, a.panel);
  const int64_t left = w.N - a.panel * kPanel, outputs = left < kPanel ? left : kPanel;
  for (int64_t m = 0; m < a.num_rows; ++m) {
    for (int64_t n = 0; n < outputs; ++n) {
      const uint8_t* stream = n16k4_panel(w, a.panel);
      int64_t acc = 0;
      float sum = 0;
      for (int64_t block = 0; block < w.num_blocks; ++block) {
        const BlockView view = view_block(w, stream, block, tiles);
        const int64_t part = block_sum(a, view, block, tiles, m, n);
        acc += part;
        sum += read_scale(w, view.scales, n) * static_cast<float>(part);
        stream += n16k4_block_bytes(w, block, tiles);
      }
      store(a, m, n, acc, sum);
    }
  }
}

}  // namespace qcompile
