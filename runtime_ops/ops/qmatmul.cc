// SPDX-License-Identifier: Apache-2.0
// QMatMul: X [..., K] times a packed weight [N, K] (docs/ops.md).
#include <algorithm>
#include <cstring>

#include "operands.h"
#include "ops.h"
#include "row_rotation.h"

namespace qcompile {
namespace {

// A task of this much work takes 5 to 20 us; waking a thread takes about 2. Work is counted in
// columns of one panel; 8 rows cost as much as reading the panel's codes.
constexpr int64_t kTaskWork = 512 * 1024;
constexpr int64_t kTaskElements = 64 * 1024;  // of X to quantize
// Rows that share one unpacking of a panel; a chunk of 192 rows makes it 1 % of the product.
constexpr int64_t kRowChunk = 192;

class QMatMul final : public OpKernel {
 public:
  explicit QMatMul(const Node& node)
      : node_(node), weight_(node), activation_(node, weight_, true),
        operands_(node, weight_, activation_), rotation_(node, weight_.K()) {
    if (weight_.layout() != LayoutKind::kN16K4) {
      node.refuse("layout = \"" + node.text("layout") + "\"", "docs/ops.md: QMatMul takes n16k4/1",
                  "Pack the model again with this version of qcompile.");
    }
    if (rotation_.is_on() && activation_.is_static()) {
      node.refuse("hadamard with static activations", "docs/ops.md: X is float where it is rotated",
                  "Remove the attribute hadamard.");
    }
    const Weight& shape = weight_.shape();
    runs_ = contiguous_runs(shape);
    padded_row_ = padded_row(shape);
    num_panels_ = n16k4_num_panels(shape);
    scratch_bytes_ = n16k4_scratch_bytes(weight_.weight(nullptr));
  }

  void compute(const Context& context) const override {
    Tensor x = context.input(0);
    activation_.check_x(x);
    if (x.dims.empty() || x.dims.back() != weight_.K()) {
      node_.refuse("X is " + to_string(x.dims) + "; K = " + std::to_string(weight_.K()),
                   "docs/ops.md: X [..., K]", "Correct the graph.");
    }
    std::vector<int64_t> fresh;
    const ProductOperands operands = operands_.read(context, &fresh);
    x.dims.back() = weight_.N();
    const Tensor y = context.output(0, std::move(x.dims));
    if (y.count == 0) return;
    const Weight w = weight_.weight(operands.weight);
    const Epilogue epilogue = activation_.epilogue(operands);
    if (activation_.kind() == ActivationKind::kFloat) {
      float_product(context, w, x, epilogue, y);
    } else {
      integer_product(context, w, x, epilogue, y);
    }
  }

 private:
  struct Rows {
    int8_t* codes;
    int64_t stride;
    const int8_t** pointers;
    float* scales;
    int32_t* sums;  // null: the product reads none
  };

  // One piece of memory for the arrays of all rows.
  Rows allocate(int64_t M) const {
    static thread_local Scratch memory;
    Rows rows;
    rows.stride = ceil_div(padded_row_, 64) * 64;
    const int64_t tail = 8 + 4 + 4 * weight_.shape().num_blocks;
    // Kernels may read one vector beyond the last row.
    rows.codes = memory.get<int8_t>(M * (rows.stride + tail) + 64);
    rows.pointers = reinterpret_cast<const int8_t**>(rows.codes + M * rows.stride + 64);
    rows.scales = reinterpret_cast<float*>(rows.pointers + M);
    rows.sums = reinterpret_cast<int32_t*>(rows.scales + M);
    return rows;
  }

  // Codes and scales of `count` rows x from row `first` on.
  void code(const float* x, int64_t first, int64_t count, const Rows& rows) const {
    int8_t* codes = rows.codes + first * rows.stride;
    quantize_rows_f32_s8_args args{
        x,     count, weight_.K(), rows.stride, activation_.limit(), activation_.reach(),
        codes, rows.scales + first};
    kernels().quantize_rows_f32_s8(args);
  }

  // Codes of rows [first, last), zero-padded, with scales and sums.
  void prepare(const Tensor& x, const Weight& w, const Rows& rows, int64_t first,
               int64_t last) const {
    int8_t* codes = rows.codes + first * rows.stride;
    for (int64_t m = first; m < last; ++m) rows.pointers[m] = rows.codes + m * rows.stride;
    if (activation_.is_static()) {
      for (int64_t m = first; m < last; ++m, codes += rows.stride) {
        centre_u8_s8_args args{x.as<uint8_t>() + m * w.K, w.K, codes};
        kernels().centre_u8_s8(args);
        if (rows.stride == w.K) continue;
        std::memset(codes + w.K, 0, static_cast<size_t>(rows.stride - w.K));
      }
    } else if (rotation_.is_on()) {
      static thread_local Scratch rotated;
      float* y = rotated.get<float>(kRowsToRotate * w.K);
      for (int64_t m = first; m < last; m += kRowsToRotate) {
        const int64_t count = std::min(kRowsToRotate, last - m);
        rotation_.rotate(x.as<float>() + m * w.K, count, y, w.K);
        code(y, m, count, rows);
      }
    } else {
      code(x.as<float>() + first * w.K, first, last - first, rows);
    }
    if (!rows.sums) return;
    rowsum_s8_args sums{rows.pointers + first, last - first, runs_.runs.data(), runs_.ends.data(),
                        w.num_blocks, rows.sums + first * w.num_blocks};
    kernels().rowsum_s8(sums);
  }

  // Tasks of a product of `rows` rows: each is some panels.
  struct Split {
    int64_t panels_per_task, tasks;
    Split(int64_t K, int64_t panels, int64_t rows) {
      const int64_t work = K * kPanel * std::max<int64_t>(1, rows / 8);
      panels_per_task = std::max<int64_t>(1, kTaskWork / work);
      tasks = ceil_div(panels, panels_per_task);
    }
  };

  void integer_product(const Context& context, const Weight& w, const Tensor& x,
                       const Epilogue& epilogue, const Tensor& y) const {
    const int64_t M = x.count / w.K;
    Rows rows = allocate(M);
    if (!needs_sums(kernels(), w, M)) rows.sums = nullptr;
    const int64_t per_task = std::max<int64_t>(1, kTaskElements / w.K);
    context.parallel(ceil_div(M, per_task), [&](int64_t task) {
      prepare(x, w, rows, task * per_task, std::min(M, (task + 1) * per_task));
    });
    // Chunks of about the same size, in whole register blocks.
    int64_t chunk = M;
    if (M > kRowChunk) chunk = ceil_div(ceil_div(M, ceil_div(M, kRowChunk)), 24) * 24;
    const Split split(w.K, num_panels_, chunk);
    context.parallel(ceil_div(M, chunk) * split.tasks, [&](int64_t task) {
      static thread_local Scratch scratch;
      const int64_t first = task / split.tasks * chunk;
      const int64_t begin = task % split.tasks * split.panels_per_task;
      const int64_t end = std::min(num_panels_, begin + split.panels_per_task);
      matmul_s8_n16k4_args args{};
      args.weight = &w;
      args.x_rows = rows.pointers + first;
      args.num_rows = std::min(chunk, M - first);
      args.runs = runs_.runs.data();
      args.run_ends = runs_.ends.data();
      args.is_contiguous = true;
      args.x_sums = rows.sums ? rows.sums + first * w.num_blocks : nullptr;
      args.scratch = scratch.get<uint8_t>(scratch_bytes_);
      args.y_stride = w.N;
      for (args.panel = begin; args.panel < end; ++args.panel) {
        args.epilogue = at_output(epilogue, args.panel * kPanel);
        args.epilogue.x_scales = rows.scales + first;
        args.y = static_cast<uint8_t*>(y.data) +
                 (first * w.N + args.panel * kPanel) * activation_.y_bytes();
        activation_.product()(args);
      }
    });
  }

  // Rows where they are, or copies padded with zeros.
  const float** float_rows(const Weight& w, const Tensor& x, int64_t M) const {
    static thread_local Scratch padded, pointers;
    const float** rows = pointers.get<const float*>(M);
    for (int64_t m = 0; m < M; ++m) rows[m] = x.as<float>() + m * w.K;
    if (padded_row_ == w.K && !rotation_.is_on()) return rows;
    float* copy = padded.get<float>(M * padded_row_);
    if (rotation_.is_on()) rotation_.rotate(x.as<float>(), M, copy, padded_row_);
    for (int64_t m = 0; m < M; ++m, copy += padded_row_) {
      if (!rotation_.is_on()) std::memcpy(copy, rows[m], static_cast<size_t>(w.K) * 4);
      std::memset(copy + w.K, 0, static_cast<size_t>(padded_row_ - w.K) * 4);
      rows[m] = copy;
    }
    return rows;
  }

  void float_product(const Context& context, const Weight& w, const Tensor& x,
                     const Epilogue& epilogue, const Tensor& y) const {
    const int64_t M = x.count / w.K;
    const float** rows = float_rows(w, x, M);
    const auto product = float_product_of(kernels(), w);
    const Split split(w.K, num_panels_, 4 * M);  // a float product does a quarter a cycle
    context.parallel(split.tasks, [&](int64_t task) {
      static thread_local Scratch scratch;
      float* memory = scratch.get<float>(kFloatScratch);
      const int64_t begin = task * split.panels_per_task;
      const int64_t end = std::min(num_panels_, begin + split.panels_per_task);
      for (int64_t panel = begin; panel < end; ++panel) {
        const float* bias = epilogue.bias ? epilogue.bias + panel * kPanel : nullptr;
        matmul_f32_n16k4_args args{&w, panel, rows, M, bias, epilogue.clip_min, epilogue.clip_max,
                                   static_cast<float*>(y.data) + panel * kPanel, w.N, memory};
        product(args);
      }
    });
  }

  const Node node_;
  const WeightInput weight_;
  const Activation activation_;
  const Operands operands_;
  const RowRotation rotation_;
  Runs runs_;
  int64_t padded_row_, num_panels_, scratch_bytes_;
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  int64_t N;
  if (!context.input(0, &dims, &type) || dims.empty() || !context.integer("N", &N)) return;
  dims.back() = Dim{N, ""};
  context.set_output(0, output_type(context, type), dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QMatMul>(node); }

}  // namespace

void add_qmatmul(Definitions* out) {
  using namespace ort;
  out->emplace_back("QMatMul", Ports{{kFloat}, {kUint8}, {kFloat, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QMatMul", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer);
  out->emplace_back("QMatMul", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QMatMul", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kInt32, kOptional}},
                    Ports{{kUint8}}, create, infer);
  out->emplace_back("QMatMul", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kInt32, kOptional}},
                    Ports{{kInt32}}, create, infer);
}

}  // namespace qcompile
