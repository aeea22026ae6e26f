// SPDX-License-Identifier: Apache-2.0
// Depthwise: every channel has its own taps; N11 ... N17 as for dense products.
#include "dyadic.h"
#include "epilogue.h"

namespace qcompile {
namespace {

void store(const depthwise_s8_kc_args& a, int64_t pixel, int64_t c, int32_t acc) {
  const Epilogue& e = a.epilogue;
  const int64_t at = pixel * a.num_channels + c;
  const int64_t total = int64_t{acc} + e.correction[c];
  if (e.output == Output::kRequantized) {
    static_cast<uint8_t*>(a.y)[at] = requantize_f32(total, e.bias_codes[c], e.multiplier[c], e);
  } else if (e.output == Output::kScaled) {
    static_cast<float*>(a.y)[at] = scaled_f32(total, e.bias_codes[c], e.multiplier[c], e);
  } else if (is_dyadic(e.output)) {
    const int32_t sum = saturate_int32(total + e.bias_codes[c]);
    finish_dyadic(&sum, 1, e, c, a.y, at);
  } else {
    static_cast<float*>(a.y)[at] =
        finish_float(a.scales[c] * static_cast<float>(acc), e.x_scales[0], e.bias[c], e);
  }
}

}  // namespace

void depthwise_s8_kc__scalar(depthwise_s8_kc_args& a) {
  for (int64_t pixel = 0; pixel < a.num_pixels; ++pixel) {
    const int8_t* x = a.x + pixel * a.pixel_stride;
    for (int64_t c = 0; c < a.num_channels; ++c) {
      int32_t acc = 0;
      for (int64_t tap = 0; tap < a.num_taps; ++tap) {
        const int32_t value = a.values[tap * a.padded_channels + c];
        acc += x[a.tap_offsets[tap] + c] * static_cast<int16_t>(value);
      }
      store(a, pixel, c, acc);
    }
  }
}

}  // namespace qcompile
