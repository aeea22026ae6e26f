// SPDX-License-Identifier: Apache-2.0
#include "window.h"

#include <algorithm>

namespace qcompile {
namespace {

// Larger strides, pads and dilations have no use, and the bound keeps every sum below 2^63.
constexpr int64_t kMax = int64_t{1} << 20;
constexpr int64_t kMaxSize = int64_t{1} << 56;  // of a map

void copy_checked(const Node& node, const char* name, size_t count, int64_t low, int64_t* out) {
  const std::vector<int64_t> values = node.integers(name);
  if (values.empty()) return;
  bool is_legal = values.size() == count;
  for (int64_t v : values) is_legal = is_legal && v >= low && v <= kMax;
  if (!is_legal) {
    node.refuse(std::string(name) + " = " + to_string(values),
                "docs/ops.md: " + std::to_string(count) + " ints of " + std::to_string(low) +
                    " ... " + std::to_string(kMax), std::string("Correct ") + name + ".");
  }
  for (size_t i = 0; i < count; ++i) out[i] = values[i];
}

}  // namespace

int64_t Window::output_size(int axis, int64_t size) const {
  const int64_t span = dilations[axis] * (kernel[axis] - 1) + 1;
  const int64_t room = size + pads[axis] + pads[axis + 2] - span;
  if (room < 0 && (!is_ceil || room <= -strides[axis])) return 0;
  const int64_t count = (is_ceil ? ceil_div(room, strides[axis]) : room / strides[axis]) + 1;
  // No window starts beyond the input and its padding before.
  return is_ceil && (count - 1) * strides[axis] >= size + pads[axis] ? count - 1 : count;
}

Window Window::on(int64_t height, int64_t width) const {
  Window window = *this;
  if (is_whole_map) {
    window.kernel[0] = height;
    window.kernel[1] = width;
  }
  return window;
}

Window read_window(const Node& node, bool may_be_whole_map) {
  Window window;
  copy_checked(node, "kernel_shape", 2, 1, window.kernel);
  copy_checked(node, "strides", 2, 1, window.strides);
  copy_checked(node, "dilations", 2, 1, window.dilations);
  copy_checked(node, "pads", 4, 0, window.pads);
  window.is_ceil = node.integer("ceil_mode", 0) != 0;
  window.is_whole_map = window.kernel[0] == 0;
  if (window.is_whole_map && !may_be_whole_map) {
    node.refuse("kernel_shape is missing", "docs/ops.md", "Set it.");
  }
  return window;
}

void check_map(const Node& node, const Window& window, const Tensor& x) {
  if (x.dims.size() != 4) {
    node.refuse("X is " + to_string(x.dims), "docs/ops.md: X is NHWC, 4 dimensions",
                "Correct the graph.");
  }
  // Empty tensors may have any other sizes.
  const int64_t height = std::min(x.dims[1], kMaxSize) + window.pads[0] + window.pads[2];
  const int64_t width = std::min(x.dims[2], kMaxSize) + window.pads[1] + window.pads[3];
  int64_t count;
  if (*std::max_element(x.dims.begin(), x.dims.end()) > kMaxSize ||
      __builtin_mul_overflow(height, width, &count) ||
      __builtin_mul_overflow(count, x.dims[3] + 1, &count) ||
      __builtin_mul_overflow(count, x.dims[0] + 1, &count) || count > kMaxSize) {
    node.refuse("X is " + to_string(x.dims) + "; its padded map has more than 2^56 elements",
                "sizes are int64", "Make the map or the pads smaller.");
  }
}

bool infer_window(const ShapeContext& context, bool may_be_whole_map, std::vector<Dim>* dims) {
  Window window;
  std::vector<int64_t> kernel, strides, pads, dilations;
  context.integers("kernel_shape", &kernel);
  context.integers("strides", &strides);
  context.integers("pads", &pads);
  context.integers("dilations", &dilations);
  int64_t ceil_mode = 0;
  window.is_ceil = context.integer("ceil_mode", &ceil_mode) && ceil_mode != 0;
  if (kernel.empty() && !may_be_whole_map) return false;
  // Shapes are inferred before a node is checked: what it will refuse has no shape.
  const auto fits = [](const std::vector<int64_t>& values, int64_t low) {
    return std::all_of(values.begin(), values.end(),
                       [low](int64_t v) { return v >= low && v <= kMax; });
  };
  if (!fits(kernel, 1) || !fits(strides, 1) || !fits(dilations, 1) || !fits(pads, 0)) return false;
  for (size_t i = 0; i < 2; ++i) {
    if (kernel.size() == 2) window.kernel[i] = kernel[i];
    if (strides.size() == 2 && strides[i] > 0) window.strides[i] = strides[i];
    if (dilations.size() == 2) window.dilations[i] = dilations[i];
  }
  for (size_t i = 0; i < 4 && pads.size() == 4; ++i) window.pads[i] = pads[i];
  for (int axis = 0; axis < 2; ++axis) {
    Dim& dim = (*dims)[static_cast<size_t>(axis) + 1];
    // A map of unknown size has an output of unknown size under no name that X knows.
    const bool is_known = dim.size >= 0 && dim.size <= kMaxSize;
    dim = Dim{kernel.empty() ? 1 : !is_known ? -1 : window.output_size(axis, dim.size), ""};
  }
  return true;
}

}  // namespace qcompile
