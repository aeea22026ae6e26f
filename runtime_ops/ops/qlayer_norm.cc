// SPDX-License-Identifier: Apache-2.0
// QLayerNorm: LayerNormalization and RMSNorm of the last axis (docs/ops.md, N28).
#include <algorithm>

#include "ops.h"

namespace qcompile {
namespace {

constexpr int64_t kPerTask = 16 * 1024, kLongestRow = int64_t{1} << 23;

class QLayerNorm final : public OpKernel {
 public:
  explicit QLayerNorm(const Node& node) : node_(node) {
    const std::string mode = node.text("mode");
    if (mode != "layer" && mode != "rms") {
      node.refuse("mode = \"" + mode + "\"; it is layer or rms", "docs/ops.md", "Correct mode.");
    }
    args_.is_centred = mode == "layer";
    args_.epsilon = node.number("epsilon");
    if (!(args_.epsilon >= 0)) {
      node.refuse("epsilon is negative or no number", "N28", "Correct epsilon.");
    }
    args_.x_zero_point = static_cast<int32_t>(node.integer_between("x_zero_point", 0, 255));
    args_.y_zero_point = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
    args_.y_max = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    args_.y_min = static_cast<int32_t>(node.integer_between("y_min", 0, args_.y_max));
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0), gamma = context.input(1), beta = context.input(2);
    if (x.dims.empty() || x.dims.back() > kLongestRow) {
      node_.refuse("X is " + to_string(x.dims), "N28: X is [..., K] with K of at most 2^23",
                   "Correct the graph.");
    }
    const int64_t columns = x.dims.back();
    for (const Tensor& each : {gamma, beta}) {
      if (each.dims.size() == 1 && each.count == columns) continue;
      node_.refuse("X is " + to_string(x.dims) + ", gamma or beta is " + to_string(each.dims),
                   "docs/ops.md: gamma [K], beta [K]", "Correct the graph.");
    }
    const Tensor y = context.output(0, x.dims);
    if (y.count == 0) return;
    const int64_t rows = y.count / columns, per_task = std::max<int64_t>(1, kPerTask / columns);
    context.parallel(ceil_div(rows, per_task), [&](int64_t task) {
      layer_norm_u8_args args = args_;
      const int64_t first = task * per_task;
      args.x = x.as<uint8_t>() + first * columns;
      args.y = static_cast<uint8_t*>(y.data) + first * columns;
      args.num_rows = std::min(per_task, rows - first);
      args.num_columns = columns;
      args.gamma = gamma.as<float>();
      args.beta = beta.as<float>();
      kernels().layer_norm_u8(args);
    });
  }

 private:
  const Node node_;
  layer_norm_u8_args args_{};
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (context.input(0, &dims, &type)) context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QLayerNorm>(node); }

}  // namespace

void add_qlayer_norm(Definitions* out) {
  using namespace ort;
  out->emplace_back("QLayerNorm", Ports{{kUint8}, {kFloat}, {kFloat}}, Ports{{kUint8}}, create,
                    infer);
}

}  // namespace qcompile
