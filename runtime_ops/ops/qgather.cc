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
  explicit QGather(const Node& node)
      : node_(node), weight_(node), scale_format_(node.text("scale_format")) {
    if (weight_.layout() == LayoutKind::kKC || weight_.shape().level_bytes) {
      node.refuse("layout " + node.text("layout"), "docs/ops.md: any but kc/1 and n16k4c/1",
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
    const float* scale = row_scales(context);
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
        const int64_t row = index < 0 ? index + w.N : index;
        float* values = static_cast<float*>(y.data) + i * w.K;
        gather_f32_args args{&w, row, values};
        kernel(args);
        if (!scale) continue;  // else the values are small integers: one rounding (N23)
        for (int64_t k = 0; k < w.K; ++k) values[k] *= scale[row];
      }
    });
  }

 private:
  // The third input, which stands where W has no scales; else null.
  const float* row_scales(const Context& context) const {
    const Tensor scale = context.input(2);
    const bool is_given = scale.type != ort::kUndefined;
    const bool is_needed = weight_.shape().scale_bytes == 0;
    if (is_given != is_needed || (is_given && scale.count != weight_.N())) {
      node_.refuse("scale_format " + scale_format_ + " with " +
                       (is_given ? std::to_string(scale.count) : "no") + " scales",
                   "docs/ops.md: N scales where scale_format is none, else no input",
                   "Pack the model again with this version of qcompile.");
    }
    return is_given ? scale.as<float>() : nullptr;
  }

  const Node node_;
  const WeightInput weight_;
  const std::string scale_format_;
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
  out->emplace_back("QGather", Ports{{kInt64}, {kUint8}, {kFloat, kOptional}}, Ports{{kFloat}}, create, infer);
}

}  // namespace qcompile
