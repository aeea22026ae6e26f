// SPDX-License-Identifier: Apache-2.0
// One execution of a convolution, and its two kinds.
#pragma once

#include "conv_map.h"
#include "operands.h"

namespace qcompile {

struct ConvShape {
  Window window;
  int64_t group;
};

// The arguments of one execution.
struct Convolution {
  const ConvShape* shape;
  const WeightInput* weight;
  const Activation* activation;
  ConvMap map;
  ProductOperands operands;
  const int8_t* codes;
  const float* scales;
  uint8_t* y;
};

// Dense and grouped, as products of rows. A row (one output pixel) is kh runs of kw * C bytes of the
// map, read in place; where a run is no multiple of 4 bytes the rows are gathered (im2col), one tile
// of pixels at a time.
void dense_convolution(const Context& context, const Convolution& conv);
// One input channel an output; `unpacked` holds the weights as the kernel reads them.
void depthwise_convolution(const Context& context, const Convolution& conv,
                           const uint8_t* unpacked);

}  // namespace qcompile
