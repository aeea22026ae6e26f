// SPDX-License-Identifier: Apache-2.0
// QResize: bilinear interpolation of a uint8 map, NHWC (docs/ops.md, N27).
#include <algorithm>
#include <cmath>

#include "ops.h"

namespace qcompile {
namespace {

constexpr float kMaxScale = 1048576.0f;
constexpr int64_t kMaxSize = int64_t{1} << 31;

// Where an output lies between two inputs of one axis.
struct Place {
  int64_t first, second;
  float first_weight, second_weight;
};

class QResize final : public OpKernel {
 public:
  explicit QResize(const Node& node)
      : node_(node), mode_(node.text("mode")), scales_(node.numbers("scales")),
        sizes_(node.integers("sizes")) {
    if (mode_ != "half_pixel" && mode_ != "pytorch_half_pixel" && mode_ != "asymmetric" &&
        mode_ != "align_corners") {
      node.refuse("mode = \"" + mode_ + "\"; it is half_pixel, pytorch_half_pixel, asymmetric or "
                  "align_corners", "docs/ops.md", "Correct it.");
    }
    bool is_legal = scales_.size() + sizes_.size() == 2 && (scales_.empty() || sizes_.empty());
    for (float scale : scales_) is_legal = is_legal && scale > 0 && scale <= kMaxScale;
    for (int64_t size : sizes_) is_legal = is_legal && size > 0 && size <= kMaxSize;
    if (!is_legal) {
      node.refuse(std::to_string(scales_.size()) + " scales and sizes = " + to_string(sizes_),
                  "docs/ops.md: 2 scales of 0 ... 2^20 or 2 sizes of 1 ... 2^31",
                  "Correct scales or sizes.");
    }
    args_.multiplier = node.number("multiplier");
    args_.x_zero_point = static_cast<int32_t>(node.integer_between("x_zero_point", 0, 255));
    args_.y_zero_point = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
    args_.y_max = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    args_.y_min = static_cast<int32_t>(node.integer_between("y_min", 0, args_.y_max));
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    if (x.dims.size() != 4 || x.dims[1] == 0 || x.dims[2] == 0) {
      node_.refuse("X is " + to_string(x.dims), "docs/ops.md: X is NHWC, 4 dimensions, no empty map",
                   "Correct the graph.");
    }
    const std::vector<Place> rows = places(0, x.dims[1]), columns = places(1, x.dims[2]);
    const int64_t OH = static_cast<int64_t>(rows.size()), OW = static_cast<int64_t>(columns.size());
    const Tensor y = context.output(0, {x.dims[0], OH, OW, x.dims[3]});
    if (y.count == 0) return;
    context.parallel(x.dims[0] * OH, [&](int64_t line) {
      const int64_t C = x.dims[3], W = x.dims[2], sample = line / OH * x.dims[1];
      const Place& row = rows[static_cast<size_t>(line % OH)];
      const uint8_t* top = x.as<uint8_t>() + (sample + row.first) * W * C;
      const uint8_t* bottom = x.as<uint8_t>() + (sample + row.second) * W * C;
      uint8_t* out = static_cast<uint8_t*>(y.data) + line * OW * C;
      interpolate_u8_args args = args_;
      args.count = C;
      args.row_weights[0] = row.first_weight;
      args.row_weights[1] = row.second_weight;
      for (const Place& column : columns) {
        args.corners[0] = top + column.first * C;
        args.corners[1] = top + column.second * C;
        args.corners[2] = bottom + column.first * C;
        args.corners[3] = bottom + column.second * C;
        args.column_weights[0] = column.first_weight;
        args.column_weights[1] = column.second_weight;
        args.y = out;
        kernels().interpolate_u8(args);
        out += C;
      }
    });
  }

 private:
  // Of every output of an axis (0: height, 1: width) with `size` inputs.
  std::vector<Place> places(size_t axis, int64_t size) const {
    const float inputs = static_cast<float>(size);
    const float scale =
        sizes_.empty() ? scales_[axis] : static_cast<float>(sizes_[axis]) / inputs;
    const int64_t outputs = sizes_.empty() ? static_cast<int64_t>(std::floor(inputs * scale))
                                           : sizes_[axis];
    check_side(outputs);
    std::vector<Place> out;
    for (int64_t o = 0; o < outputs; ++o) {
      const float at = std::min(std::max(position(o, scale, size, outputs), 0.0f), inputs - 1);
      const int64_t first = static_cast<int64_t>(at);
      const float weight = at - static_cast<float>(first);
      out.push_back({first, std::min(first + 1, size - 1), 1.0f - weight, weight});
    }
    return out;
  }

  void check_side(int64_t outputs) const {
    if (outputs <= kMaxSize) return;
    node_.refuse("the output has a side of " + std::to_string(outputs), "sides of at most 2^31",
                 "Correct scales.");
  }

  float position(int64_t o, float scale, int64_t inputs, int64_t outputs) const {
    const float at = static_cast<float>(o);
    if (mode_ == "asymmetric") return at / scale;
    if (mode_ == "align_corners") {
      if (outputs == 1) return 0;
      return at * static_cast<float>(inputs - 1) / static_cast<float>(outputs - 1);
    }
    if (mode_ == "pytorch_half_pixel" && outputs == 1) return 0;
    return (at + 0.5f) / scale - 0.5f;
  }

  const Node node_;
  const std::string mode_;
  const std::vector<float> scales_;
  const std::vector<int64_t> sizes_;
  interpolate_u8_args args_{};
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  std::vector<int64_t> sizes;
  ort::TensorType type;
  if (!context.input(0, &dims, &type) || dims.size() != 4) return;
  const bool has_sizes = context.integers("sizes", &sizes) && sizes.size() == 2;
  dims[1] = Dim{has_sizes ? sizes[0] : -1, ""};
  dims[2] = Dim{has_sizes ? sizes[1] : -1, ""};
  context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QResize>(node); }

}  // namespace

void add_qresize(Definitions* out) {
  using namespace ort;
  out->emplace_back("QResize", Ports{{kUint8}}, Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
