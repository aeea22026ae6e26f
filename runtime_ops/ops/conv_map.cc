// SPDX-License-Identifier: Apache-2.0
#include "conv_map.h"

#include <algorithm>
#include <cstring>

#include "../kernels/epilogue.h"

namespace qcompile {
namespace {

constexpr int64_t kTaskBytes = 256 * 1024;  // of codes: 10 us centred, 50 us quantized

// The scale of each sample, N4.
void find_scales(const Context& context, const Activation& activation, const Tensor& x,
                 const ConvMap& map, float* scales) {
  const int64_t count = map.H * map.W * map.C;
  const int64_t pieces = std::max<int64_t>(1, count / (kTaskBytes / 4));
  const int64_t piece = ceil_div(count, pieces);
  static thread_local Scratch maxima;
  int32_t* amax = maxima.get<int32_t>(map.B * pieces);
  context.parallel(map.B * pieces, [&](int64_t task) {
    const int64_t first = task % pieces * piece;
    amax_f32_args args{x.as<float>() + task / pieces * count + first,
                       std::max<int64_t>(0, std::min(piece, count - first)), 0};
    kernels().amax_f32(args);
    amax[task] = args.amax_bits;
  });
  for (int64_t b = 0; b < map.B; ++b) {
    const int32_t bits = *std::max_element(amax + b * pieces, amax + (b + 1) * pieces);
    scales[b] = dynamic_scale(bits, activation.reach());
  }
}

// One row of the padded map: border codes left and right, codes of X between.
void fill_row(const Activation& activation, const Tensor& x, const ConvMap& map, int64_t b,
              int64_t padded_row, int8_t* row, float scale) {
  const int pad = activation.pad_code();
  const int64_t h = padded_row - map.pads[0], bytes = map.W * map.C;
  if (h < 0 || h >= map.H) {
    std::memset(row, pad, static_cast<size_t>(map.padded_w * map.C));
    return;
  }
  int8_t* inside = row + map.pads[1] * map.C;
  std::memset(row, pad, static_cast<size_t>(map.pads[1] * map.C));
  std::memset(inside + bytes, pad, static_cast<size_t>(map.pads[3] * map.C));
  const int64_t at = (b * map.H + h) * bytes;
  if (activation.is_static()) {
    centre_u8_s8_args args{x.as<uint8_t>() + at, bytes, inside};
    kernels().centre_u8_s8(args);
  } else {
    quantize_f32_s8_args args{x.as<float>() + at, bytes, scale, activation.limit(), inside};
    kernels().quantize_f32_s8(args);
  }
}

}  // namespace

void fill_codes(const Context& context, const Activation& activation, const Tensor& x,
                const ConvMap& map, int8_t* codes, float* scales) {
  const bool is_static = activation.is_static();
  if (!is_static) find_scales(context, activation, x, map, scales);
  const int64_t row_bytes = map.padded_w * map.C, rows = map.B * map.padded_h;
  const int64_t per_task = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes));
  context.parallel(ceil_div(rows, per_task), [&](int64_t task) {
    for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) {
      fill_row(activation, x, map, r / map.padded_h, r % map.padded_h, codes + r * row_bytes,
               is_static ? 0.0f : scales[r / map.padded_h]);
    }
  });
}

}  // namespace qcompile
