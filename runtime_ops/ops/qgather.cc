// SPDX-License-Identifier: Apache-2.0
// QGather: rows of a packed table as f32 (docs/ops.md, N23).
#include <algorithm>

#include "ops.h"
#include "weight_input.h"

namespace qcompile {
namespace {

constexpr int64_t kTaskElements = 16 * 1024;

class QGather final : public OpKernel {
 public:
  explicit QGather(const Node& node) : node_(node), weight_(node) {
    if (weight_.layout() == LayoutKind::kKC || weight_.shape().scale_bytes == 0) {
      node.refuse("layout " + node.text("layout") + " with scale_format " +
                      node.text("scale_format"),
                  "docs/ops.md: n16k4/1 or rows/1, with scales",
                  "Pack the model again with this version of qcompile.");
    }
    const Tensor buffer = node.constant(1);
    if (buffer.type == ort::kUndefined) return;
    weight_.check_buffer(buffer);
    constant_ = buffer.as<uint8_t>();
  }

  void compute(const Context& context) const override {
    Tensor indices = context.input(0);
    const uint8_t* codes = constant_;
    if (!codes) {
      const Tensor buffer = context.input(1);
      weight_.check_buffer(buffer);
      codes = buffer.as<uint8_t>();
    }
    const Weight w = weight_.weight(codes);
    for (int64_t i = 0; i < indices.count; ++i) {
      const int64_t index = indices.as<int64_t>()[i];
      if (index < -w.N || index >= w.N) {
        node_.refuse("indices[" + std::to_string(i) + "] = " + std::to_string(index) + " with N = " +
                         std::to_string(w.N), "docs/ops.md: -N ... N-1", "Correct the indices.");
      }
    }
    indices.dims.push_back(w.K);
    const Tensor y = context.output(0, std::move(indices.dims));
    if (y.count == 0) return;
    const auto kernel = weight_.layout() == LayoutKind::kRows ? kernels().gather_f32_rows
                                                              : kernels().gather_f32_n16k4;
    const int64_t per_task = std::max<int64_t>(1, kTaskElements / w.K);
    context.parallel(ceil_div(indices.count, per_task), [&](int64_t task) {
      const int64_t end = std::min(indices.count, (task + 1) * per_task);
      for (int64_t i = task * per_task; i < end; ++i) {
        const int64_t index = indices.as<int64_t>()[i];
        gather_f32_args args{&w, index < 0 ? index + w.N : index,
                             static_cast<float*>(y.data) + i * w.K};
        kernel(args);
      }
    });
  }

 private:
  const Node node_;
  const WeightInput weight_;
  const uint8_t* constant_ = nullptr;  // W, where it is an initializer
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  int64_t K;
  if (!context.input(0, &dims, &type) || !context.integer("K", &K)) return;
  dims.push_back(Dim{K, ""});
  context.set_output(0, ort::kFloat, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QGather>(node); }

}  // namespace

void add_qgather(Definitions* out) {
  using namespace ort;
  out->emplace_back("QGather", Ports{{kInt64}, {kUint8}}, Ports{{kFloat}}, create, infer);
}

}  // namespace qcompile
