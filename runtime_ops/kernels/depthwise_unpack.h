// SPDX-License-Identifier: Apache-2.0
// A kc weight as the depthwise kernels read it: a value an int32 lane, and an epilogue in whole
// vectors of channels. It is small (taps * C), and unpacking it costs as much as some lines of pixels.
#pragma once

#include "epilogue.h"
#include "weight_elements.h"

namespace qcompile {
namespace {

// The places of the arrays in 64-byte aligned memory: quads [kernel_w, ceil(kernel_h / 4),
// padded64 / 64, 4, 16, 4] int8, quad sums [padded64] int32, corrections [padded] int64, values
// [taps, padded] int32, scales [padded] float, whether every value fits a quad's byte; padded and
// padded64 are multiples of 16 and 64. Quads and their sums are in the order of quad_place().
struct DepthwiseWeight {
  int64_t kernel_h, kernel_w, num_taps, padded, padded64;

  DepthwiseWeight(const int64_t (&kernel)[2], int64_t channels)
      : kernel_h(kernel[0]), kernel_w(kernel[1]), num_taps(kernel[0] * kernel[1]),
        padded(ceil_div(channels, kTile) * kTile), padded64(ceil_div(channels, 64) * 64) {}
  int64_t quad_bytes() const { return (kernel_w * ceil_div(kernel_h, 4) * 4 + 4) * padded64; }
  int64_t bytes() const { return quad_bytes() + (8 + num_taps * 4 + 4) * padded + 1; }
  const int8_t* quads(const uint8_t* memory) const {
    return reinterpret_cast<const int8_t*>(memory);
  }
  const int32_t* quad_sums(const uint8_t* memory) const {
    return reinterpret_cast<const int32_t*>(memory + quad_bytes()) - padded64;
  }
  bool has_quads(const uint8_t* memory) const { return memory[bytes() - 1] != 0; }
  const int64_t* corrections(const uint8_t* memory) const {
    return reinterpret_cast<const int64_t*>(memory + quad_bytes());
  }
  const int32_t* values(const uint8_t* memory) const {
    return reinterpret_cast<const int32_t*>(corrections(memory) + padded);
  }
  const float* scales(const uint8_t* memory) const {
    return reinterpret_cast<const float*>(values(memory) + num_taps * padded);
  }

  // Codes to values, and corrections = -pad_code * sum of a channel's values.
  void unpack(const Weight& w, int32_t pad_code, uint8_t* memory) const {
    std::memset(memory, 0, static_cast<size_t>(bytes()));
    memory[bytes() - 1] = 1;
    auto* sums = const_cast<int64_t*>(corrections(memory));
    auto* out = const_cast<int32_t*>(values(memory));
    auto* factors = const_cast<float*>(scales(memory));
    const int64_t string = bit_string_bytes(w.N, w.bits);
    const uint8_t* w_scales = w.data + w.K * string;
    const uint8_t* zero_points = w_scales + w.N * w.scale_bytes;
    for (int64_t tap = 0; tap < w.K; ++tap) {
      for (int64_t c = 0; c < w.N; ++c) {
        const uint32_t code = bit_string_code(w.data + tap * string, c, w.bits);
        const int32_t value = integer_value(w, code, point_bytes(w) ? zero_points[c] : 0);
        out[tap * padded + c] = value & 0xffff;
        sums[c] -= int64_t{pad_code} * value;
        add_to_quads(tap, c, value, memory);
      }
    }
    for (int64_t c = 0; c < w.N; ++c) factors[c] = read_scale(w, w_scales, c);
  }

  void add_to_quads(int64_t tap, int64_t c, int32_t value, uint8_t* memory) const {
    if (value < -128 || value > 127) memory[bytes() - 1] = 0;
    const int64_t i = tap / kernel_w, j = tap % kernel_w, place = quad_place(c);
    const int64_t quad = j * ceil_div(kernel_h, 4) + i / 4;
    memory[(quad * padded64 + place) * 4 + i % 4] = static_cast<uint8_t>(value);
    const_cast<int32_t*>(quad_sums(memory))[place] += value;
  }

  // What depthwise_u8_quads starts from and multiplies by, in `copies` [2, padded64]; false where a
  // sum might saturate, or no int32 be its product. `e` is padded.
  bool quad_epilogue(const uint8_t* memory, int64_t channels, const Epilogue& e,
                     int32_t* copies) const {
    std::memset(copies, 0, static_cast<size_t>(padded64) * 8);
    auto* multiplier = reinterpret_cast<float*>(copies + padded64);
    bool saturates = num_taps * 255 * 255 >= kHuge;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t place = quad_place(c);
      const int32_t bias = e.bias_codes[c];
      saturates |= bias >= kHuge || bias <= -kHuge || !(std::fabs(e.multiplier[c]) <= 1.0f);
      multiplier[place] = e.multiplier[c];
      const int64_t start = e.correction[c] + bias - 128 * quad_sums(memory)[place];
      copies[place] = static_cast<int32_t>(start);  // sums are right modulo 2^32
    }
    return !saturates;
  }

  // Copies what the epilogue points at into whole vectors in `copies` [3, padded], and points it
  // there.
  void pad_epilogue(const uint8_t* memory, int64_t channels, float* copies, Epilogue* e) const {
    std::memset(copies, 0, static_cast<size_t>(padded) * 12);
    auto* bias_codes = reinterpret_cast<int32_t*>(copies);
    float *multiplier = copies + padded, *bias = copies + 2 * padded;
    for (int64_t c = 0; c < channels; ++c) {
      if (e->bias_codes) bias_codes[c] = e->bias_codes[c];
      if (e->multiplier) multiplier[c] = e->multiplier[c];
      if (e->bias) bias[c] = e->bias[c];
    }
    e->correction = corrections(memory);
    e->bias_codes = bias_codes;
    e->multiplier = multiplier;
    e->bias = bias;
  }
};

}  // namespace
}  // namespace qcompile
