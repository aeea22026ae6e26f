// SPDX-License-Identifier: Apache-2.0
// QLut: any function of one code, as a table of 256 (docs/ops.md, N25).
#include <algorithm>

#include "ops.h"

namespace qcompile {
namespace {

constexpr int64_t kPerTask = 128 * 1024, kTableSize = 256;

class QLut final : public OpKernel {
 public:
  explicit QLut(const Node& node) : node_(node) {
    const Tensor table = node.constant(1);
    if (table.type == ort::kUndefined) return;
    check_table(table);
    constant_table_ = table.as<uint8_t>();
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    const uint8_t* table = constant_table_;
    if (!table) {
      const Tensor given = context.input(1);
      check_table(given);
      table = given.as<uint8_t>();
    }
    const Tensor y = context.output(0, x.dims);
    context.parallel(ceil_div(y.count, kPerTask), [&](int64_t task) {
      const int64_t first = task * kPerTask;
      lut_u8_args args{x.as<uint8_t>() + first, std::min(kPerTask, y.count - first), table,
                       static_cast<uint8_t*>(y.data) + first};
      kernels().lut_u8(args);
    });
  }

 private:
  void check_table(const Tensor& table) const {
    if (table.count == kTableSize && table.dims.size() == 1) return;
    node_.refuse("table is " + to_string(table.dims), "docs/ops.md: table [256]", "Correct table.");
  }

  const Node node_;
  const uint8_t* constant_table_ = nullptr;
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (context.input(0, &dims, &type)) context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QLut>(node); }

}  // namespace

void add_qlut(Definitions* out) {
  using namespace ort;
  out->emplace_back("QLut", Ports{{kUint8}, {kUint8}}, Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
