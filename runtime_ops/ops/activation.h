// SPDX-License-Identifier: Apache-2.0
// How a product treats its activations and its result: what QMatMul and QConv share.
#pragma once

#include <vector>

#include "weight_input.h"

namespace qcompile {

struct ProductOperands;

enum class ActivationKind { kFloat, kDynamic, kStatic };

class Activation {
 public:
  // Reads and checks the attributes; `weight` decides which sums are possible.
  Activation(const Node& node, const WeightInput& weight, bool float_is_possible);

  ActivationKind kind() const { return kind_; }
  int32_t limit() const { return limit_; }                // of dynamic codes
  float reach() const { return reach_; }                  // the largest |x| in scales
  int32_t pad_code() const { return is_static() ? x_zero_point_ - 128 : 0; }  // N15, centred
  bool is_static() const { return kind_ == ActivationKind::kStatic; }
  bool gives_codes() const { return is_static() && gives_codes_; }
  int64_t y_bytes() const { return gives_codes() ? 1 : 4; }
  float clip_min() const { return clip_min_; }
  float clip_max() const { return clip_max_; }

  // Refuse an X of the other element type, and a bias or multiplier that does not agree with N.
  void check_x(const Tensor& x) const;
  void check_bias(const Tensor& bias) const;
  void check_multiplier(const Tensor& multiplier) const;
  // x_scales are set by the op.
  Epilogue epilogue(const ProductOperands& operands) const;
  // -(x_zero_point - 128) * sum_k w[n, k] of all N outputs; for n16k4 weights that are static.
  std::vector<int64_t> corrections(const WeightInput& weight, const uint8_t* buffer) const;
  int64_t correction_of(int64_t weight_sum) const { return -int64_t{pad_code()} * weight_sum; }
  // The product's kernel: the active one, or the scalar one where int32 sums could overflow, N10.
  void (*product() const)(matmul_s8_n16k4_args&) { return product_; }

 private:
  void read_static(const Node& node);
  void check_dyadic(const int32_t* pairs) const;
  void check_sums(const WeightInput& weight);
  const Node node_;
  int64_t N_;
  ActivationKind kind_ = ActivationKind::kFloat;
  int32_t limit_ = 127;
  float reach_ = 127;
  int32_t x_zero_point_ = 0, y_zero_point_ = 0, y_min_ = 0, y_max_ = 255;
  bool gives_codes_ = true;  // else output "f32" (N16) or "i32" (N17)
  bool is_dyadic_ = false;   // N12, N17
  float clip_min_, clip_max_;
  void (*product_)(matmul_s8_n16k4_args&) = nullptr;
};

// The element type of Y, for shape inference.
ort::TensorType output_type(const ShapeContext& context, ort::TensorType x);

// The runs of rows that are one piece (column k is byte k): one run a block.
struct Runs {
  std::vector<Run> runs;
  std::vector<int64_t> ends;
};
Runs contiguous_runs(const Weight& weight);
// Columns of such a row with its last block padded to a whole chunk.
int64_t padded_row(const Weight& weight);

}  // namespace qcompile
