// SPDX-License-Identifier: Apache-2.0
// Depthwise convolutions: every channel has its own kernel of kh * kw taps.
#include <algorithm>

#include "../kernels/depthwise_unpack.h"
#include "convolution.h"

namespace qcompile {
namespace {

// Multiplications: a task takes about 10 us, and less than 50 us is not worth waking a thread.
constexpr int64_t kTaskWork = 192 * 1024, kSerialWork = 1024 * 1024;

depthwise_s8_kc_args tap_args(const Convolution& conv, const DepthwiseWeight& weight,
                              const uint8_t* unpacked, const std::vector<int64_t>& offsets) {
  depthwise_s8_kc_args args{};
  args.tap_offsets = offsets.data();
  args.num_taps = weight.num_taps;
  args.pixel_stride = conv.shape->window.strides[1] * conv.map.C;
  args.num_pixels = conv.map.OW;
  args.num_channels = conv.map.C;
  args.padded_channels = weight.padded;
  args.max_value = conv.weight->absmax();
  args.values = weight.values(unpacked);
  args.scales = weight.scales(unpacked);
  return args;
}

depthwise_u8_quads_args quad_args(const Convolution& conv, const DepthwiseWeight& weight,
                                  const DepthwiseOperands& operands) {
  const Epilogue& e = operands.epilogue;
  const Window& window = conv.shape->window;
  depthwise_u8_quads_args args{};
  args.row_stride = window.dilations[0] * conv.map.padded_w * conv.map.C;
  args.column_stride = conv.map.C;
  args.pixel_columns = window.strides[1];
  args.tap_columns = window.dilations[1];
  args.kernel_h = weight.kernel_h;
  args.kernel_w = weight.kernel_w;
  args.num_pixels = conv.map.OW;
  args.num_channels = conv.map.C;
  args.quads = weight.quads(operands.unpacked);
  args.correction = operands.quad_epilogue;
  args.multiplier = reinterpret_cast<const float*>(operands.quad_epilogue + weight.padded64);
  args.y_zero_point = e.y_zero_point;
  args.y_min = e.y_min;
  args.y_max = e.y_max;
  return args;
}

}  // namespace

void DepthwiseOperands::read(const ConvShape& shape, const Weight& w, const Activation& activation,
                             const ProductOperands& operands, const uint8_t* constant) {
  const DepthwiseWeight weight(shape.window.kernel, w.N);
  unpacked = constant;
  if (!unpacked) {
    uint8_t* memory = weight_memory_.get<uint8_t>(weight.bytes());
    weight.unpack(w, activation.pad_code(), memory);
    unpacked = memory;
  }
  epilogue = activation.epilogue(operands);
  weight.pad_epilogue(unpacked, w.N, epilogue_memory_.get<float>(3 * weight.padded), &epilogue);
  int32_t* copies = quad_memory_.get<int32_t>(2 * weight.padded64);
  quad_epilogue = copies;
  uses_quads = kernels().depthwise_u8_quads && weight.has_quads(unpacked) &&
               epilogue.output == Output::kRequantized &&
               weight.quad_epilogue(unpacked, w.N, epilogue, copies);
}

void depthwise_convolution(const Context& context, const Convolution& conv,
                           const DepthwiseOperands& operands) {
  const ConvMap& map = conv.map;
  const Window& window = conv.shape->window;
  const Weight w = conv.weight->weight(conv.operands.weight);
  const DepthwiseWeight weight(window.kernel, w.N);
  std::vector<int64_t> offsets;
  for (int64_t i = 0; i < window.kernel[0]; ++i) {
    for (int64_t j = 0; j < window.kernel[1]; ++j) {
      offsets.push_back((i * window.dilations[0] * map.padded_w + j * window.dilations[1]) * map.C);
    }
  }
  const depthwise_s8_kc_args by_taps = tap_args(conv, weight, operands.unpacked, offsets);
  const depthwise_u8_quads_args by_quads = quad_args(conv, weight, operands);
  const int64_t lines = map.B * map.OH, line_work = map.OW * weight.padded * w.K;
  const int64_t per_task = lines * line_work <= kSerialWork
                               ? lines
                               : std::max<int64_t>(1, kTaskWork / line_work);
  context.parallel(ceil_div(lines, per_task), [&](int64_t task) {
    static thread_local Scratch columns;
    for (int64_t l = task * per_task; l < std::min(lines, (task + 1) * per_task); ++l) {
      const int64_t b = l / map.OH, oy = l % map.OH;
      const int8_t* x =
          conv.codes + b * map.sample_bytes() + oy * window.strides[0] * map.padded_w * map.C;
      uint8_t* y = conv.y + l * map.OW * w.N * conv.activation->y_bytes();
      if (operands.uses_quads) {
        depthwise_u8_quads_args args = by_quads;
        args.x = x;
        args.y = y;
        args.scratch = columns.get<uint8_t>(quad_scratch_bytes(
            args.kernel_h, args.kernel_w, args.pixel_columns, args.tap_columns));
        kernels().depthwise_u8_quads(args);
        continue;
      }
      depthwise_s8_kc_args args = by_taps;
      args.x = x;
      args.y = y;
      args.epilogue = operands.epilogue;
      args.epilogue.x_scales = conv.scales + b;
      kernels().depthwise_s8_kc(args);
    }
  });
}

}  // namespace qcompile
