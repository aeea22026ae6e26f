// SPDX-License-Identifier: Apache-2.0
// The input of a convolution as its kernels read it: codes, centred or quantized, NHWC, with the
// padding written out.
#pragma once

#include "activation.h"
#include "window.h"

namespace qcompile {

// Sizes of one execution.
struct ConvMap {
  int64_t B, H, W, C, OH, OW;
  int64_t padded_h, padded_w;
  int64_t pads[4];  // top, left, bottom, right
  int64_t pixels() const { return B * OH * OW; }
  int64_t sample_bytes() const { return padded_h * padded_w * C; }
};

// codes [B, padded_h, padded_w, C]; scales [B], for dynamic activations.
void fill_codes(const Context& context, const Activation& activation, const Tensor& x,
                const ConvMap& map, int8_t* codes, float* scales);

}  // namespace qcompile
