// SPDX-License-Identifier: Apache-2.0
// Depthwise taps, 16 channels a vector: |x| <= 128 and |value| <= 255 fit int16, so a 16-bit
// multiply-add of int32 lanes is exact. QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

// The low half of a lane of `value` is the factor; its high half must be 0, since that of x is the
// sign of x.
QC_INLINE Ints low_half(const int32_t* value) {
  return bit_and(load_ints(value), set_ints(0xffff));
}

template <int kPixels>
QC_INLINE void depthwise_pixels(const depthwise_s8_kc_args& a, int64_t pixel, int64_t c) {
  const Epilogue& e = a.epilogue;
  const int8_t* x = a.x + pixel * a.pixel_stride + c;
  const int32_t* value = a.values + c;
  Ints acc[kPixels];
  unroll<kPixels>(QC_UNROLLED(p) { acc[p] = set_ints(0); });
  for (int64_t tap = 0; tap < a.num_taps; ++tap, value += a.padded_channels) {
    const Ints w = low_half(value);
    const int8_t* at = x + a.tap_offsets[tap];
    unroll<kPixels>(QC_UNROLLED(p) { acc[p] = dot16(acc[p], widen(at + p * a.pixel_stride), w); });
  }
  const int64_t channels = a.num_channels - c;
  const Requantizer requantize(e.y_zero_point, e.y_min, e.y_max);
  alignas(64) int32_t correction[16];
  if (e.output == Output::kRequantized) {
    for (int i = 0; i < 16; ++i) correction[i] = static_cast<int32_t>(e.correction[c + i]);
  }
  unroll<kPixels>(QC_UNROLLED(p) {
    const int64_t to = (pixel + p) * a.num_channels + c;
    if (e.output == Output::kRequantized) {
      const Ints total = add_saturating(add(acc[p], load_ints(correction)),
                                        load_ints(e.bias_codes + c));
      const Ints code = requantize(total, load_floats(e.multiplier + c));
      store_low_bytes(static_cast<uint8_t*>(a.y) + to, code, channels);
    } else {
      const Floats scaled = mul(load_floats(a.scales + c), to_floats(acc[p]));
      const Floats v = fmadd(set_floats(e.x_scales[0]), scaled, load_floats(e.bias + c));
      store_floats(static_cast<float*>(a.y) + to,
                   min(set_floats(e.clip_max), max(set_floats(e.clip_min), v)), channels);
    }
  });
}

}  // namespace

void QC_ISA_NAME(depthwise_s8_kc)(depthwise_s8_kc_args& a) {
  for (int64_t c = 0; c < a.num_channels; c += kTile) {
    int64_t pixel = 0;
    for (; pixel + 4 <= a.num_pixels; pixel += 4) depthwise_pixels<4>(a, pixel, c);
    for (; pixel < a.num_pixels; ++pixel) depthwise_pixels<1>(a, pixel, c);
  }
}

}  // namespace qcompile
