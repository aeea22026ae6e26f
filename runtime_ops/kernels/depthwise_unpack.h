// SPDX-License-Identifier: Apache-2.0
// A kc weight as the depthwise kernels read it: int32 values and an epilogue in whole vectors of
// channels. It is small (taps * C), and unpacking it costs as much as a pixel.
#pragma once

#include "epilogue.h"
#include "weight_elements.h"

namespace qcompile {
namespace {

struct DepthwiseWeight {
  int32_t* values;       // [taps, padded]
  float* scales;         // [padded]
  int64_t* corrections;  // [padded]
  int32_t* bias_codes;
  float* multiplier;
  float* bias;
  int64_t num_taps, padded;

  static int64_t bytes(int64_t num_taps, int64_t padded) {
    return (num_taps * 4 + 4 + 8 + 4 + 4 + 4) * padded;
  }
  // Lays the arrays out in `memory`, which is 64-byte aligned; padded is a multiple of 16.
  void allocate(uint8_t* memory, int64_t taps, int64_t padded_channels) {
    num_taps = taps;
    padded = padded_channels;
    std::memset(memory, 0, static_cast<size_t>(bytes(taps, padded)));
    corrections = reinterpret_cast<int64_t*>(memory);
    values = reinterpret_cast<int32_t*>(corrections + padded);
    scales = reinterpret_cast<float*>(values + taps * padded);
    bias_codes = reinterpret_cast<int32_t*>(scales + padded);
    multiplier = reinterpret_cast<float*>(bias_codes + padded);
    bias = multiplier + padded;
  }
  // Copies what the epilogue points at into whole vectors, and points it at the copies.
  void pad_epilogue(int64_t channels, Epilogue* e) {
    for (int64_t c = 0; c < channels; ++c) {
      if (e->bias_codes) bias_codes[c] = e->bias_codes[c];
      if (e->multiplier) multiplier[c] = e->multiplier[c];
      if (e->bias) bias[c] = e->bias[c];
    }
    e->correction = corrections;
    e->bias_codes = bias_codes;
    e->multiplier = multiplier;
    e->bias = bias;
  }
};

// Codes to values, and corrections = -pad_code * sum of a channel's values.
inline void unpack_depthwise(const Weight& w, int32_t pad_code, DepthwiseWeight* out) {
  const int64_t string = bit_string_bytes(w.N, w.bits);
  const uint8_t* scales = w.data + w.K * string;
  const uint8_t* zero_points = scales + w.N * w.scale_bytes;
  for (int64_t tap = 0; tap < w.K; ++tap) {
    for (int64_t c = 0; c < w.N; ++c) {
      const uint32_t code = bit_string_code(w.data + tap * string, c, w.bits);
      const int32_t value = integer_value(w, code, w.has_zero_point ? zero_points[c] : 0);
      out->values[tap * out->padded + c] = value;
      out->corrections[c] -= int64_t{pad_code} * value;
    }
  }
  for (int64_t c = 0; c < w.N; ++c) out->scales[c] = read_scale(scales, c, w.scale_bytes);
}

}  // namespace
}  // namespace qcompile
