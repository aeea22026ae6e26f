// SPDX-License-Identifier: Apache-2.0
// Hadamard: rows of floats times signs and Hadamard's matrix (docs/ops.md, N42), for several readers;
// a single QMatMul does it itself.
#include <algorithm>

#include "ops.h"
#include "row_rotation.h"

namespace qcompile {
namespace {

constexpr int64_t kTaskElements = 32 * 1024;

class Hadamard final : public OpKernel {
 public:
  explicit Hadamard(const Node& node)
      : node_(node), K_(node.integer_between("K", 2, INT32_MAX)), rotation_(node, K_) {
    if (rotation_.is_on()) return;
    node.refuse("hadamard is 0 or missing", "docs/ops.md: the size of a block", "Correct it.");
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    if (x.dims.empty() || x.dims.back() != K_) {
      node_.refuse("X is " + to_string(x.dims) + "; K = " + std::to_string(K_),
                   "docs/ops.md: X [..., K]", "Correct the graph.");
    }
    const Tensor y = context.output(0, x.dims);
    const int64_t M = x.count / K_;
    const int64_t per_task =
        ceil_div(std::max(kTaskElements / K_, int64_t{1}), kRowsToRotate) * kRowsToRotate;
    context.parallel(ceil_div(M, per_task), [&](int64_t task) {
      const int64_t last = std::min(M, (task + 1) * per_task);
      for (int64_t m = task * per_task; m < last; m += kRowsToRotate) {
        rotation_.rotate(x.as<float>() + m * K_, std::min(kRowsToRotate, last - m),
                         static_cast<float*>(y.data) + m * K_, K_);
      }
    });
  }

 private:
  const Node node_;
  const int64_t K_;
  const RowRotation rotation_;
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (context.input(0, &dims, &type)) context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<Hadamard>(node); }

}  // namespace

void add_hadamard(Definitions* out) {
  using namespace ort;
  out->emplace_back("Hadamard", Ports{{kFloat}}, Ports{{kFloat}}, create, infer);
}

}  // namespace qcompile
