// SPDX-License-Identifier: Apache-2.0
#include "activation.h"

#include <cmath>

#include "../kernels/dyadic.h"
#include "operands.h"
#include "requantize.h"

namespace qcompile {

namespace {

using Product = void (*)(matmul_s8_n16k4_args&);

// The kernel of a weight. Tables have one of their own where the processor looks them up faster so,
// and where no other SIMD kernel reads them.
Product product_of(const Weight& w) {
  const Kernels& k = kernels();
  const bool is_only = w.high_table || w.has_special;
  const bool is_dense = !is_sparse(w.bits);
  const bool is_faster = is_dense && w.byte_table && k.table_widths >> w.bits & 1;
  if (k.matmul_s8_table && (is_faster || (is_only && is_dense))) return k.matmul_s8_table;
  return is_only ? matmul_s8_n16k4__scalar : integer_product_of(k, w);
}

}  // namespace

Activation::Activation(const Node& node, const WeightInput& weight, bool float_is_possible)
    : node_(node), N_(weight.N()) {
  const std::string kind = node.text("activation");
  clip_min_ = node.number("clip_min", -INFINITY);
  clip_max_ = node.number("clip_max", INFINITY);
  if (!(clip_min_ <= clip_max_)) {
    node.refuse("clip_min = " + std::to_string(clip_min_) + " is not below clip_max = " +
                    std::to_string(clip_max_), "docs/ops.md", "Correct them.");
  }
  if (kind == "static") {
    kind_ = ActivationKind::kStatic;
    read_static(node);
  } else if (kind == "dynamic") {
    kind_ = ActivationKind::kDynamic;
    limit_ = (1 << (node.integer_between("activation_bits", 2, 8) - 1)) - 1;
    reach_ = node.reach("activation_reach", limit_);
  } else if (kind != "f32" || !float_is_possible) {
    node.refuse("activation = \"" + kind + "\"; it is " +
                    (float_is_possible ? "f32, dynamic or static" : "dynamic or static"),
                "docs/ops.md", "Correct it.");
  }
  const bool has_codebook = weight.shape().level_bytes > 0;
  if (has_codebook && kind_ != ActivationKind::kFloat) {
    node.refuse("activation = \"" + kind + "\" with levels of every block",
                "docs/layouts.md: those of n16k4c/1 are floats, which integer products cannot read",
                "Use activation f32, or another format.");
  }
  if (!has_codebook && (weight.shape().scale_bytes == 0) != is_static()) {
    node.refuse("activation = \"" + kind + "\" with scale_format " +
                    (is_static() ? "f16 or f32" : "none"),
                "docs/ops.md: none for static activations, scales for the others",
                "Pack the model again with this version of qcompile.");
  }
  if (kind_ != ActivationKind::kFloat) check_sums(weight);
}

void Activation::read_static(const Node& node) {
  x_zero_point_ = static_cast<int32_t>(node.integer_between("x_zero_point", 0, 255));
  const std::string output = node.text("output", "codes");
  is_dyadic_ = reads_dyadic(node);
  const std::string other = is_dyadic_ ? "i32" : "f32";
  if (output != "codes" && output != other) {
    node.refuse("output = \"" + output + "\"; it is codes or " + other, "docs/ops.md", "Correct it.");
  }
  gives_codes_ = output == "codes";
  if (is_dyadic_ && !gives_codes_) {
    y_max_ = static_cast<int32_t>(node.integer_between("y_max", INT32_MIN, INT32_MAX, INT32_MAX));
    y_min_ = static_cast<int32_t>(node.integer_between("y_min", INT32_MIN, y_max_, INT32_MIN));
  }
  if (!gives_codes_) return;
  y_zero_point_ = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
  y_max_ = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
  y_min_ = static_cast<int32_t>(node.integer_between("y_min", 0, y_max_));
}

void Activation::check_sums(const WeightInput& weight) {
  const Weight w = weight.weight(nullptr);
  if (!weight.has_integers()) {
    node_.refuse("the table of " + weight.format() + " reaches " + std::to_string(weight.absmax()),
                 "docs/ops.md: -32768 ... 32767 for integer products",
                 "Use activation f32, or a table that fits.");
  }
  constexpr int64_t kLimit = int64_t{1} << 31;
  if (w.K * int64_t{weight.absmax()} >= kLimit) {
    node_.refuse("K = " + std::to_string(w.K) + " of values up to " +
                     std::to_string(weight.absmax()), "docs/numerics.md N10: sums are exact",
                 "Split K.");
  }
  if (weight.layout() == LayoutKind::kKC && w.K * 255 * weight.absmax() >= kLimit) {
    node_.refuse(std::to_string(w.K) + " taps of values up to " + std::to_string(weight.absmax()),
                 "docs/numerics.md N10: sums of depthwise products are int32",
                 "Use a table of smaller values.");
  }
  // One int32 accumulator holds a block, and in static products all of K with x - x_zero_point; of
  // two planes each its part, whose sum saturates afterwards.
  const int64_t largest = w.high_table ? 128 : weight.absmax();
  const bool block_fits = w.block_size * 128 * int64_t{w.max_byte} < kLimit;
  const bool sum_fits = !is_static() || w.K * 255 * largest < kLimit;
  if (!block_fits || !sum_fits) {
    product_ = matmul_s8_n16k4__scalar;
  } else {
    product_ = product_of(w);
  }
}

void Activation::check_x(const Tensor& x) const {
  if (x.type == (is_static() ? ort::kUint8 : ort::kFloat)) return;
  node_.refuse(std::string("X is no ") + (is_static() ? "uint8" : "float") + " tensor",
               "docs/ops.md: uint8 for static activations, float for the others",
               "Correct the attribute activation or the graph.");
}

void Activation::check_bias(const Tensor& bias) const {
  const ort::TensorType type = is_static() ? ort::kInt32 : ort::kFloat;
  if (bias.type == type && bias.count == N_) return;
  node_.refuse("bias has " + std::to_string(bias.count) + " elements of ONNX type " +
                   std::to_string(bias.type) + "; N = " + std::to_string(N_) + " of type " +
                   std::to_string(type) + " are needed", "docs/ops.md", "Correct bias.");
}

void Activation::check_multiplier(const Tensor& multiplier) const {
  if (!is_dyadic_ && multiplier.type == ort::kFloat && multiplier.count == N_) return;
  if (is_dyadic_ && multiplier.type == ort::kInt32 && multiplier.count == 2 * N_) {
    return check_dyadic(multiplier.as<int32_t>());
  }
  node_.refuse("multiplier has " + std::to_string(multiplier.count) + " elements of ONNX type " +
                   std::to_string(multiplier.type) + "; N = " + std::to_string(N_) +
                   (is_dyadic_ ? " int32 pairs are needed" : " floats are needed"),
               "docs/numerics.md N11, N12, N16, N17", "Correct multiplier.");
}

void Activation::check_dyadic(const int32_t* pairs) const {
  for (int64_t n = 0; n < N_; ++n) {
    const int32_t m = pairs[n], e = pairs[N_ + n];
    if (m >= 0 && e >= 1 && e <= kMaxExponent) continue;
    node_.refuse("multiplier " + std::to_string(n) + " is " + std::to_string(m) + " * 2^-" +
                     std::to_string(e), "docs/numerics.md N12: m >= 0 and 1 <= e <= 62",
                 "Correct multiplier.");
  }
}

Epilogue Activation::epilogue(const ProductOperands& operands) const {
  Epilogue e;
  e.output = is_dyadic_ ? gives_codes() ? Output::kDyadic : Output::kRescaled
             : gives_codes() ? Output::kRequantized
             : is_static()   ? Output::kScaled
                             : Output::kFloat;
  if (is_static()) {
    e.correction = operands.corrections;
    e.bias_codes = static_cast<const int32_t*>(operands.bias);
    if (is_dyadic_) {
      e.dyadic_m = static_cast<const int32_t*>(operands.multiplier);
      e.dyadic_e = e.dyadic_m + N_;
    } else {
      e.multiplier = static_cast<const float*>(operands.multiplier);
    }
  } else {
    e.bias = static_cast<const float*>(operands.bias);
  }
  e.y_zero_point = y_zero_point_;
  e.y_min = y_min_;
  e.y_max = y_max_;
  e.clip_min = clip_min_;
  e.clip_max = clip_max_;
  return e;
}

std::vector<int64_t> Activation::corrections(const WeightInput& weight,
                                             const uint8_t* buffer) const {
  // A product with a row of ones gives the sums of the weights at the speed of the kernel.
  const Weight& shape = weight.shape();
  const Runs runs = contiguous_runs(shape);
  std::vector<int8_t> ones(static_cast<size_t>(padded_row(shape) + 64), 0);
  std::fill(ones.begin(), ones.begin() + shape.K, int8_t{1});
  const int8_t* row = ones.data();
  std::vector<int32_t> x_sums;
  for (int64_t b = 0; b < shape.num_blocks; ++b) {
    x_sums.push_back(static_cast<int32_t>(shape.columns_of(b)));
  }
  static thread_local Scratch scratch;
  std::vector<int32_t> sums(static_cast<size_t>(ceil_div(weight.N(), kPanel) * kPanel + kPanel));
  std::vector<int64_t> result;
  for (int64_t first = 0; first < weight.N(); first += shape.N) {
    const Weight w = weight.weight(buffer, first / shape.N);
    for (int64_t panel = 0; panel < n16k4_num_panels(w); ++panel) {
      matmul_s8_n16k4_args args{&w, panel, &row, 1, runs.runs.data(), runs.ends.data(), true,
                                x_sums.data(), scratch.get<uint8_t>(n16k4_scratch_bytes(w)),
                                Epilogue(), sums.data(), 0};
      product_(args);
      const int64_t left = w.N - panel * kPanel;
      for (int64_t n = 0; n < (left < kPanel ? left : kPanel); ++n) {
        result.push_back(correction_of(sums[static_cast<size_t>(n)]));
      }
    }
  }
  return result;
}

ort::TensorType output_type(const ShapeContext& context, ort::TensorType x) {
  std::string output;
  if (!context.text("output", &output)) return x;
  return output == "f32" ? ort::kFloat : output == "i32" ? ort::kInt32 : x;
}

Runs contiguous_runs(const Weight& weight) {
  Runs runs;
  for (int64_t b = 0; b < weight.num_blocks; ++b) {
    runs.runs.push_back({b * weight.block_size, ceil_div(weight.columns_of(b), kGroup)});
    runs.ends.push_back(b + 1);
  }
  return runs;
}

int64_t padded_row(const Weight& weight) {
  const int64_t last = weight.num_blocks - 1;
  return last * weight.block_size + weight.padded_columns_of(last);
}

}  // namespace qcompile
