// SPDX-License-Identifier: Apache-2.0
// Depthwise convolutions: every channel has its own kernel of kh * kw taps.
#include <algorithm>

#include "../kernels/depthwise_unpack.h"
#include "convolution.h"

namespace qcompile {
namespace {

// Multiplications: a task takes about 10 us, and less than 50 us is not worth waking a thread.
constexpr int64_t kTaskWork = 192 * 1024, kSerialWork = 1024 * 1024;

}  // namespace

void depthwise_convolution(const Context& context, const Convolution& conv,
                           const uint8_t* unpacked) {
  const ConvMap& map = conv.map;
  const Window& window = conv.shape->window;
  const Weight w = conv.weight->weight(conv.operands.weight);
  static thread_local Scratch weight_memory, epilogue_memory;
  DepthwiseWeight weight(w.K, ceil_div(w.N, kTile) * kTile);
  if (!unpacked) {
    uint8_t* memory = weight_memory.get<uint8_t>(weight.bytes());
    weight.unpack(w, conv.activation->pad_code(), memory);
    unpacked = memory;
  }
  Epilogue epilogue = conv.activation->epilogue(conv.operands);
  weight.pad_epilogue(unpacked, w.N, epilogue_memory.get<float>(3 * weight.padded), &epilogue);
  std::vector<int64_t> offsets;
  for (int64_t i = 0; i < window.kernel[0]; ++i) {
    for (int64_t j = 0; j < window.kernel[1]; ++j) {
      offsets.push_back((i * window.dilations[0] * map.padded_w + j * window.dilations[1]) * map.C);
    }
  }
  const int64_t lines = map.B * map.OH, line_work = map.OW * weight.padded * w.K;
  const int64_t per_task = lines * line_work <= kSerialWork
                               ? lines
                               : std::max<int64_t>(1, kTaskWork / line_work);
  context.parallel(ceil_div(lines, per_task), [&](int64_t task) {
    for (int64_t l = task * per_task; l < std::min(lines, (task + 1) * per_task); ++l) {
      const int64_t b = l / map.OH, oy = l % map.OH;
      depthwise_s8_kc_args args{};
      args.x = conv.codes + b * map.sample_bytes() +
               oy * window.strides[0] * map.padded_w * map.C;
      args.tap_offsets = offsets.data();
      args.num_taps = w.K;
      args.pixel_stride = window.strides[1] * map.C;
      args.num_pixels = map.OW;
      args.num_channels = w.N;
      args.padded_channels = weight.padded;
      args.values = weight.values(unpacked);
      args.scales = weight.scales(unpacked);
      args.epilogue = epilogue;
      args.epilogue.x_scales = conv.scales + b;
      args.y = conv.y + l * map.OW * w.N * conv.activation->y_bytes();
      kernels().depthwise_s8_kc(args);
    }
  });
}

}  // namespace qcompile
