// SPDX-License-Identifier: Apache-2.0
// Depthwise taps, 16 channels a vector: |x| <= 128 and the values fit int16, so a 16-bit
// multiply-add of int32 lanes is exact. QC_ISA_NAME as in elementwise.h.
#include "dyadic.h"
#include "simd.h"

namespace qcompile {
namespace {

// The operands of 16 channels, the same for all pixels.
struct Channels {
  Ints correction, bias_codes;
  Floats multiplier, scale, bias;
  bool may_saturate = false;  // else bias_codes are part of correction

  Channels(const depthwise_s8_kc_args& a, int64_t c) {
    const Epilogue& e = a.epilogue;
    bias_codes = load_ints(e.bias_codes + c);
    multiplier = load_floats(e.multiplier + c);
    scale = load_floats(a.scales + c);
    bias = load_floats(e.bias + c);
    alignas(64) int32_t corrections[kTile] = {};
    correction = load_ints(corrections);
    if (!is_integer(e.output)) return;
    may_saturate = a.num_taps * 255 * int64_t{a.max_value} >= kHuge;
    for (int i = 0; i < kTile; ++i) {
      corrections[i] = static_cast<int32_t>(e.correction[c + i]);
      may_saturate |= e.bias_codes[c + i] >= kHuge || e.bias_codes[c + i] <= -kHuge;
    }
    correction = load_ints(corrections);
    if (!may_saturate) correction = add(correction, bias_codes);
  }
};

template <int kPixels>
QC_INLINE void depthwise_pixels(const depthwise_s8_kc_args& a, const Channels& channels,
                                int64_t pixel, int64_t c) {
  const Epilogue& e = a.epilogue;
  const int64_t num_taps = a.num_taps, stride = a.pixel_stride, left = a.num_channels - c;
  const int64_t y_stride = a.num_channels, first = pixel * y_stride + c;
  const int8_t* x = a.x + pixel * stride + c;
  const int32_t* value = a.values + c;
  Ints acc[kPixels];
  unroll<kPixels>(QC_UNROLLED(p) { acc[p] = set_ints(0); });
  for (int64_t tap = 0; tap < num_taps; ++tap, value += a.padded_channels) {
    const Ints w = load_ints(value);
    const int8_t* at = x + a.tap_offsets[tap];
    unroll<kPixels>(QC_UNROLLED(p) { acc[p] = dot16(acc[p], widen(at + p * stride), w); });
  }
  if (e.output == Output::kRequantized) {
    const Requantizer requantize(e.y_zero_point, e.y_min, e.y_max);
    uint8_t* y = static_cast<uint8_t*>(a.y) + first;
    unroll<kPixels>(QC_UNROLLED(p) {
      Ints total = add(acc[p], channels.correction);
      if (channels.may_saturate) total = add_saturating(total, channels.bias_codes);
      store_low_bytes(y + p * y_stride, requantize(total, channels.multiplier), left);
    });
    return;
  }
  if (is_dyadic(e.output)) {
    unroll<kPixels>(QC_UNROLLED(p) {
      Ints total = add(acc[p], channels.correction);
      if (channels.may_saturate) total = add_saturating(total, channels.bias_codes);
      alignas(64) int32_t totals[kTile];
      store_ints(totals, total, kTile);
      finish_dyadic(totals, left < kTile ? left : kTile, e, c, a.y, first + p * y_stride);
    });
    return;
  }
  float* y = static_cast<float*>(a.y) + first;
  if (e.output == Output::kScaled) {
    const Floats low = set_floats(e.clip_min), high = set_floats(e.clip_max);
    unroll<kPixels>(QC_UNROLLED(p) {
      Ints total = add(acc[p], channels.correction);
      if (channels.may_saturate) total = add_saturating(total, channels.bias_codes);
      const Floats v = mul(to_floats(total), channels.multiplier);
      store_floats(y + p * y_stride, min(high, max(low, v)), left);
    });
    return;
  }
  unroll<kPixels>(QC_UNROLLED(p) {
    const Floats scaled = mul(channels.scale, to_floats(acc[p]));
    const Floats v = fmadd(set_floats(e.x_scales[0]), scaled, channels.bias);
    store_floats(y + p * y_stride, min(set_floats(e.clip_max), max(set_floats(e.clip_min), v)),
                 left);
  });
}

}  // namespace

void QC_ISA_NAME(depthwise_s8_kc)(depthwise_s8_kc_args& a) {
  for (int64_t c = 0; c < a.num_channels; c += kTile) {
    const Channels channels(a, c);
    int64_t pixel = 0;
    for (; pixel + 8 <= a.num_pixels; pixel += 8) depthwise_pixels<8>(a, channels, pixel, c);
    if (pixel + 4 <= a.num_pixels) {
      depthwise_pixels<4>(a, channels, pixel, c);
      pixel += 4;
    }
    for (; pixel + 2 <= a.num_pixels; pixel += 2) depthwise_pixels<2>(a, channels, pixel, c);
    if (pixel < a.num_pixels) depthwise_pixels<1>(a, channels, pixel, c);
  }
}

}  // namespace qcompile
