// SPDX-License-Identifier: Apache-2.0
// A kc weight as the depthwise kernels read it: a value an int32 lane, and an epilogue in whole
// vectors of channels. It is small (taps * C), and unpacking it costs as much as some lines of pixels.
#pragma once

#include "epilogue.h"
#include "weight_elements.h"

namespace qcompile {
namespace {

// The places of the arrays in 8-byte aligned memory: corrections [padded] int64, values
// [taps, padded] int32, scales [padded] float; padded is a multiple of 16.
struct DepthwiseWeight {
  int64_t num_taps, padded;

  DepthwiseWeight(int64_t taps, int64_t padded_channels)
      : num_taps(taps), padded(padded_channels) {}
  int64_t bytes() const { return (8 + num_taps * 4 + 4) * padded; }
  const int64_t* corrections(const uint8_t* memory) const {
    return reinterpret_cast<const int64_t*>(memory);
  }
  const int32_t* values(const uint8_t* memory) const {
    return reinterpret_cast<const int32_t*>(memory + 8 * padded);
  }
  const float* scales(const uint8_t* memory) const {
    return reinterpret_cast<const float*>(memory + (8 + num_taps * 4) * padded);
  }

  // Codes to values, and corrections = -pad_code * sum of a channel's values.
  void unpack(const Weight& w, int32_t pad_code, uint8_t* memory) const {
    std::memset(memory, 0, static_cast<size_t>(bytes()));
    auto* sums = const_cast<int64_t*>(corrections(memory));
    auto* out = const_cast<int32_t*>(values(memory));
    auto* factors = const_cast<float*>(scales(memory));
    const int64_t string = bit_string_bytes(w.N, w.bits);
    const uint8_t* w_scales = w.data + w.K * string;
    const uint8_t* zero_points = w_scales + w.N * w.scale_bytes;
    for (int64_t tap = 0; tap < w.K; ++tap) {
      for (int64_t c = 0; c < w.N; ++c) {
        const uint32_t code = bit_string_code(w.data + tap * string, c, w.bits);
        const int32_t value = integer_value(w, code, w.has_zero_point ? zero_points[c] : 0);
        out[tap * padded + c] = value & 0xffff;
        sums[c] -= int64_t{pad_code} * value;
      }
    }
    for (int64_t c = 0; c < w.N; ++c) factors[c] = read_scale(w_scales, c, w.scale_bytes);
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
