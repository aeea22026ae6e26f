// SPDX-License-Identifier: Apache-2.0
// QSoftmax: Softmax of the last axis (docs/ops.md, N29).
#include <algorithm>

#include "ops.h"

namespace qcompile {
namespace {

constexpr int64_t kPerTask = 16 * 1024, kLongestRow = int64_t{1} << 29, kTableSize = 256;
constexpr float kOne = 16777216.0f;  // 2^24

class QSoftmax final : public OpKernel {
 public:
  explicit QSoftmax(const Node& node) : node_(node) {
    args_.multiplier = node.number("multiplier");
    args_.y_zero_point = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
    args_.y_max = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    args_.y_min = static_cast<int32_t>(node.integer_between("y_min", 0, args_.y_max));
    const Tensor table = node.constant(1);
    if (table.type == ort::kUndefined) {
      node.refuse("table is no initializer", "docs/ops.md", "Store the table in the model.");
    }
    check_table(table);
    args_.table = table.as<float>();
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    if (x.dims.empty() || x.dims.back() > kLongestRow) {
      node_.refuse("X is " + to_string(x.dims), "N29: X is [..., K] with K of at most 2^29",
                   "Correct the graph.");
    }
    const int64_t columns = x.dims.back();
    const Tensor y = context.output(0, x.dims);
    if (y.count == 0) return;
    const int64_t rows = y.count / columns, per_task = std::max<int64_t>(1, kPerTask / columns);
    context.parallel(ceil_div(rows, per_task), [&](int64_t task) {
      softmax_u8_args args = args_;
      const int64_t first = task * per_task;
      args.x = x.as<uint8_t>() + first * columns;
      args.y = static_cast<uint8_t*>(y.data) + first * columns;
      args.num_rows = std::min(per_task, rows - first);
      args.num_columns = columns;
      kernels().softmax_u8(args);
    });
  }

 private:
  // The kernels sum the entries as integers and never divide by 0: exp(0) is 2^24.
  void check_table(const Tensor& table) const {
    if (table.count != kTableSize || table.dims.size() != 1) {
      node_.refuse("table is " + to_string(table.dims), "docs/ops.md: table [256]",
                   "Correct table.");
    }
    for (int64_t i = 0; i < kTableSize; ++i) {
      const float v = table.as<float>()[i];
      const bool is_good = v >= 0 && v <= kOne && v == static_cast<float>(static_cast<int32_t>(v));
      if (is_good && (i != 0 || v == kOne)) continue;
      node_.refuse("table[" + std::to_string(i) + "] = " + std::to_string(v),
                   "N29: integers of 0 ... 2^24, the first 2^24", "Correct table.");
    }
  }

  const Node node_;
  softmax_u8_args args_{};
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (context.input(0, &dims, &type)) context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QSoftmax>(node); }

}  // namespace

void add_qsoftmax(Definitions* out) {
  using namespace ort;
  out->emplace_back("QSoftmax", Ports{{kUint8}, {kFloat}}, Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
