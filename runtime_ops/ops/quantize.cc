// SPDX-License-Identifier: Apache-2.0
// Quantize and Dequantize: the slow exact meaning of any format of at most 8 bits (docs/ops.md).
#include <algorithm>
#include <cstring>

#include "../kernels/epilogue.h"
#include "ops.h"

namespace qcompile {
namespace {

// How scales are laid over a tensor: the tensor is [outer, axis, inner]; an axis of blocks.
struct Grid {
  int64_t outer = 1, axis = 1, inner = 1, block = 1;
  bool has_scale_per_inner = false;     // blocked: [outer, blocks, inner] scales
  std::vector<int64_t> scale_dims;      // of a scale that the op computes

  int64_t blocks() const { return ceil_div(axis, block); }
  int64_t num_scales() const {
    return has_scale_per_inner ? outer * blocks() * inner : blocks();
  }
};

class Coding {
 public:
  explicit Coding(const Node& node) : node_(node) {
    bits_ = static_cast<int>(node.integer_between("bits", 1, 8));
    num_codes_ = node.num_codes();
    is_signed_ = node.integer_between("is_signed", 0, 1);
    table_ = node.numbers("table");
    special_code_ = static_cast<int32_t>(node.integer_between("special_code", -1, 255, -1));
    granularity_ = node.text("granularity");
    axis_ = node.integer("axis", 0);
    block_size_ = node.integer("block_size", 0);
    if (!table_.empty() && table_.size() != size_t{1} << bits_) {
      node.refuse("table of " + std::to_string(table_.size()) + " values with bits = " +
                      std::to_string(bits_), "docs/ops.md: 2^bits values", "Correct table.");
    }
    if (special_code_ >= static_cast<int32_t>(table_.size())) {
      node.refuse("special_code = " + std::to_string(special_code_) + " of " +
                      std::to_string(table_.size()) + " codes", "docs/ops.md: one of a table's",
                  "Correct it.");
    }
    const char* const known[] = {"tensor", "axis", "block", "row", "sample"};
    if (std::find(known, known + 5, granularity_) == known + 5) {
      node.refuse("granularity = \"" + granularity_ + "\"; it is tensor, axis, block, row or sample",
                  "docs/ops.md", "Correct it.");
    }
    if (granularity_ == "block" && block_size_ < 1) {
      node.refuse("block_size = " + std::to_string(block_size_), "docs/ops.md: 1 or more",
                  "Set block_size.");
    }
  }

  bool is_dynamic() const { return granularity_ == "row" || granularity_ == "sample"; }
  int bits() const { return bits_; }
  bool is_signed() const { return is_signed_; }
  bool has_table() const { return !table_.empty(); }

  Grid grid(const std::vector<int64_t>& dims) const {
    Grid grid;
    const int64_t rank = static_cast<int64_t>(dims.size());
    if (granularity_ == "tensor") {
      grid.inner = count_elements(dims);
    } else if (granularity_ == "sample" || granularity_ == "row") {
      if (rank == 0) refuse_rank(dims);
      const size_t kept = granularity_ == "sample" ? 1 : dims.size() - 1;
      for (size_t i = 0; i < dims.size(); ++i) (i < kept ? grid.axis : grid.inner) *= dims[i];
      grid.scale_dims.assign(dims.size(), 1);
      std::copy_n(dims.begin(), kept, grid.scale_dims.begin());
    } else {
      const int64_t axis = axis_ < 0 ? axis_ + rank : axis_;
      if (axis < 0 || axis >= rank) refuse_rank(dims);
      for (int64_t i = 0; i < rank; ++i) {
        const int64_t dim = dims[static_cast<size_t>(i)];
        (i < axis ? grid.outer : i == axis ? grid.axis : grid.inner) *= i == axis ? 1 : dim;
        if (i == axis) grid.axis = dim;
      }
      grid.has_scale_per_inner = granularity_ == "block";
      if (grid.has_scale_per_inner) grid.block = block_size_;
    }
    return grid;
  }

  void check_scales(const Grid& grid, const Tensor& scale, const Tensor& zero_point) const {
    const bool is_scale = scale.type == ort::kFloat && scale.count == grid.num_scales();
    const bool is_zero_point = zero_point.type == ort::kUndefined ||
                               (zero_point.type == ort::kInt8 && zero_point.count == scale.count);
    const bool has_point = zero_point.data != nullptr, is_special = special_code_ >= 0;
    if (!is_scale || !is_zero_point || (has_table() ? has_point != is_special : false)) {
      node_.refuse("scale has " + std::to_string(scale.count) + " and zero_point " +
                       std::to_string(zero_point.count) + " elements; granularity " + granularity_ +
                       " needs " + std::to_string(grid.num_scales()) + " scales",
                   "docs/ops.md: as many zero points or none; with a table none, or special values",
                   "Correct the graph.");
    }
  }

  // Runs the kernel over every piece that has one scale.
  void run(const Grid& grid, bool is_quantize, float* real, int8_t* codes, const float* scales,
           const Tensor& zero_point) const {
    code_f32_args args{};
    args.is_quantize = is_quantize;
    args.num_codes = num_codes_;
    args.is_signed = is_signed_;
    args.is_symmetric = zero_point.data == nullptr;  // N3
    args.table = table_.empty() ? nullptr : table_.data();
    args.special_code = special_code_;
    const int64_t piece = grid.has_scale_per_inner ? 1 : grid.inner;
    for (int64_t at = 0, end = grid.outer * grid.axis * grid.inner; at < end; at += piece) {
      const int64_t i = at % grid.inner, a = at / grid.inner % grid.axis;
      const int64_t o = at / grid.inner / grid.axis;
      const int64_t index = grid.has_scale_per_inner
                                ? (o * grid.blocks() + a / grid.block) * grid.inner + i
                                : a;
      args.real = real + at;
      args.codes = codes + at;
      args.count = piece;
      args.scale = scales[index];
      args.zero_point = zero_point.data ? point(zero_point, index) : 0;
      kernels().code_f32(args);
    }
  }

 private:
  int32_t point(const Tensor& zero_point, int64_t index) const {
    const int8_t stored = zero_point.as<int8_t>()[index];
    return is_signed_ || special_code_ >= 0 ? stored : static_cast<uint8_t>(stored);
  }
  [[noreturn]] void refuse_rank(const std::vector<int64_t>& dims) const {
    node_.refuse("axis = " + std::to_string(axis_) + " on a tensor of shape " + to_string(dims),
                 "docs/ops.md: granularity " + granularity_ + " needs the axis", "Correct axis.");
  }

  const Node node_;
  int bits_, num_codes_;
  bool is_signed_;
  int32_t special_code_;
  std::vector<float> table_;
  std::string granularity_;
  int64_t axis_, block_size_;
};

class Quantize final : public OpKernel {
 public:
  explicit Quantize(const Node& node) : coding_(node) {
    if (coding_.is_dynamic() && (coding_.has_table() || !coding_.is_signed() || coding_.bits() < 2)) {
      node.refuse("granularity " + node.text("granularity") + " with bits = " +
                      std::to_string(coding_.bits()) + ", is_signed = " +
                      std::to_string(coding_.is_signed()),
                  "docs/numerics.md N4: signed integers of 2 to 8 bits", "Use another format.");
    }
    if (coding_.is_dynamic()) {
      limit_ = (1 << (coding_.bits() - 1)) - 1;
      reach_ = node.reach("reach", limit_);
    }
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0), scale = context.input(1), zero_point = context.input(2);
    const Grid grid = coding_.grid(x.dims);
    const bool is_dynamic = coding_.is_dynamic();
    if (!is_dynamic) coding_.check_scales(grid, scale, zero_point);
    const Tensor codes = context.output(0, x.dims);
    const Tensor used = context.output(1, is_dynamic ? grid.scale_dims : scale.dims);
    if (is_dynamic) {
      return dynamic(grid, x, static_cast<int8_t*>(codes.data), static_cast<float*>(used.data));
    }
    if (used.data) {
      std::memcpy(used.data, scale.data, static_cast<size_t>(scale.count) * sizeof(float));
    }
    coding_.run(grid, true, static_cast<float*>(x.data), static_cast<int8_t*>(codes.data),
                scale.as<float>(), zero_point);
  }

 private:
  // N4 for every row or sample.
  void dynamic(const Grid& grid, const Tensor& x, int8_t* codes, float* scales) const {
    for (int64_t a = 0; a < grid.axis; ++a) {
      amax_f32_args amax{x.as<float>() + a * grid.inner, grid.inner, 0};
      kernels().amax_f32(amax);
      const float scale = dynamic_scale(amax.amax_bits, reach_);
      if (scales) scales[a] = scale;
      quantize_f32_s8_args args{amax.x, grid.inner, scale, limit_, codes + a * grid.inner};
      kernels().quantize_f32_s8(args);
    }
  }

  const Coding coding_;
  int32_t limit_ = 0;  // of dynamic codes
  float reach_ = 0;    // the largest |x| in scales
};

class Dequantize final : public OpKernel {
 public:
  explicit Dequantize(const Node& node)
      : node_(node), coding_(node), has_codebook_(node.integer_between("has_codebook", 0, 1, 0)) {
    const std::string granularity = node.text("granularity");
    const bool is_row = granularity == "axis" && node.integer("axis", 0) == 0;
    const bool is_block = granularity == "block" && node.integer("axis", 0) == 1;
    if (has_codebook_ && (!(is_row || is_block) || coding_.is_signed() || coding_.has_table())) {
      node.refuse("has_codebook with granularity " + granularity,
                  "docs/ops.md: levels of rows or of their blocks, without sign and table",
                  "Correct the graph.");
    }
    if (is_block) block_size_ = node.integer("block_size");
  }

  void compute(const Context& context) const override {
    const Tensor codes = context.input(0), scale = context.input(1), zero_point = context.input(2);
    if (has_codebook_) return look_up(codes, scale, context.output(0, codes.dims));
    const Grid grid = coding_.grid(codes.dims);
    coding_.check_scales(grid, scale, zero_point);
    const Tensor y = context.output(0, codes.dims);
    coding_.run(grid, false, static_cast<float*>(y.data), static_cast<int8_t*>(codes.data),
                scale.as<float>(), zero_point);
  }

 private:
  // N44: levels [rows, blocks, 2^bits] of codes [rows, ...].
  void look_up(const Tensor& codes, const Tensor& levels, const Tensor& y) const {
    const int64_t rows = codes.dims.empty() ? 1 : codes.dims[0];
    const int64_t columns = rows ? codes.count / rows : 0;
    const int64_t block = block_size_ ? block_size_ : std::max<int64_t>(columns, 1);
    const int64_t blocks = ceil_div(columns, block), size = int64_t{1} << coding_.bits();
    if (levels.type != ort::kFloat || levels.count != rows * blocks * size) {
      node_.refuse("levels have " + std::to_string(levels.count) + " elements; codes " +
                       to_string(codes.dims) + " need " + std::to_string(rows * blocks * size),
                   "docs/ops.md: [rows, blocks, 2^bits] floats", "Correct the graph.");
    }
    for (int64_t i = 0; i < codes.count; ++i) {
      const int64_t at = i / columns * blocks + i % columns / block;
      const int64_t code = codes.as<uint8_t>()[i] & (size - 1);
      static_cast<float*>(y.data)[i] = levels.as<float>()[at * size + code];
    }
  }

  const Node node_;
  const Coding coding_;
  const bool has_codebook_;
  int64_t block_size_ = 0;  // 0: rows are blocks
};

void infer_quantize(const ShapeContext& context) {
  std::vector<Dim> dims, scale;
  ort::TensorType type, scale_type;
  if (!context.input(0, &dims, &type)) return;
  context.set_output(0, ort::kInt8, dims);
  std::string granularity;
  if (!context.text("granularity", &granularity)) return;
  if (granularity == "row" || granularity == "sample") {
    const size_t kept = granularity == "row" ? dims.size() - 1 : 1;
    for (size_t i = kept; i < dims.size(); ++i) dims[i] = Dim{1, ""};
    context.set_output(1, ort::kFloat, dims);
  } else if (context.input(1, &scale, &scale_type)) {
    context.set_output(1, ort::kFloat, scale);
  }
}

void infer_dequantize(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (context.input(0, &dims, &type)) context.set_output(0, ort::kFloat, dims);
}

}  // namespace

void add_quantize(Definitions* out) {
  using namespace ort;
  out->emplace_back(
      "Quantize", Ports{{kFloat}, {kFloat, kOptional}, {kInt8, kOptional}},
      Ports{{kInt8}, {kFloat, kOptional}},
      [](const Node& node) -> std::unique_ptr<OpKernel> { return std::make_unique<Quantize>(node); },
      infer_quantize);
  out->emplace_back(
      "Dequantize", Ports{{kInt8}, {kFloat}, {kInt8, kOptional}}, Ports{{kFloat}},
      [](const Node& node) -> std::unique_ptr<OpKernel> {
        return std::make_unique<Dequantize>(node);
      },
      infer_dequantize);
}

}  // namespace qcompile
