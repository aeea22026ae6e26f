// SPDX-License-Identifier: Apache-2.0
// Where the taps of a convolution or a pooling lie: attributes, checks, output size.
#pragma once

#include <vector>

#include "op.h"

namespace qcompile {

struct Window {
  int64_t kernel[2] = {0, 0}, strides[2] = {1, 1}, dilations[2] = {1, 1};
  int64_t pads[4] = {0, 0, 0, 0};  // top, left, bottom, right
  bool is_whole_map = false;       // a pooling over all of H and W
  bool is_ceil = false;            // a last window may reach beyond the padded map

  // Outputs along axis 0 (H) or 1 (W) of `size` inputs: 0 where the kernel does not fit, which
  // with is_ceil means that it is larger than the padded map by a stride or more.
  int64_t output_size(int axis, int64_t size) const;
  // The window with the kernel of a whole map filled in.
  Window on(int64_t height, int64_t width) const;
};

Window read_window(const Node& node, bool may_be_whole_map);
// X must be NHWC, of sizes whose padded map has an int64 element count.
void check_map(const Node& node, const Window& window, const Tensor& x);
// The output dims of X's; unknown sizes stay unknown. False where an attribute is malformed.
bool infer_window(const ShapeContext& context, bool may_be_whole_map, std::vector<Dim>* dims);

}  // namespace qcompile
