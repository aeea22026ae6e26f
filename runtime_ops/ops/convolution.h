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
// What a depthwise convolution reads besides X, as its kernels take it: a session has it once where
// all of it are initializers.
struct DepthwiseOperands {
  const uint8_t* unpacked = nullptr;  // as DepthwiseWeight lays it out
  Epilogue epilogue;                  // in whole vectors of channels
  bool uses_quads = false;            // of depthwise_u8_quads
  const int32_t* quad_epilogue = nullptr;

  // `constant`: the weight as it was unpacked before, or null.
  void read(const ConvShape& shape, const Weight& w, const Activation& activation,
            const ProductOperands& operands, const uint8_t* constant);

 private:
  Scratch weight_memory_, epilogue_memory_, quad_memory_;
};
// One input channel an output.
void depthwise_convolution(const Context& context, const Convolution& conv,
                           const DepthwiseOperands& operands);

}  // namespace qcompile
