// SPDX-License-Identifier: Apache-2.0
// QMatMul: X [..., K] times a packed weight [N, K] (docs/ops.md).
#include <algorithm>
#include <cstring>

#include "../kernels/epilogue.h"
#include "activation.h"
#include "ops.h"

namespace qcompile {
namespace {

// Work below this many multiplications is not worth waking a thread for.
constexpr int64_t kSerialWork = 128 * 1024;
// Rows that share one unpacking of a panel; a chunk of 192 rows makes it 1 % of the product.
constexpr int64_t kRowChunk = 192;

class QMatMul final : public OpKernel {
 public:
  explicit QMatMul(const Node& node) : node_(node), weight_(node), activation_(node, weight_, true) {
    if (weight_.layout() != LayoutKind::kN16K4) {
      node.refuse("layout = \"" + node.text("layout") + "\"", "docs/ops.md: QMatMul takes n16k4/1",
                  "Pack the model again with this version of qcompile.");
    }
    runs_ = contiguous_runs(weight_.shape());
    const Tensor buffer = node.constant(1);
    if (buffer.type == ort::kUndefined) return;
    weight_.check_buffer(buffer);
    constant_ = buffer.data;
    if (activation_.is_static()) corrections_ = activation_.corrections(weight_, buffer);
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0), buffer = context.input(1);
    const Tensor bias = context.input(2), multiplier = context.input(3);
    activation_.check_operands(x, bias, multiplier);
    if (buffer.data != constant_) weight_.check_buffer(buffer);
    if (x.dims.empty() || x.dims.back() != weight_.K()) {
      node_.refuse("X is " + to_string(x.dims) + "; K = " + std::to_string(weight_.K()),
                   "docs/ops.md: X [..., K]", "Correct the graph.");
    }
    std::vector<int64_t> dims = x.dims;
    dims.back() = weight_.N();
    const Tensor y = context.output(0, dims);
    if (y.count == 0) return;
    const Weight w = weight_.weight(buffer);
    if (activation_.kind() == ActivationKind::kFloat) {
      return float_product(context, w, x, bias, y);
    }
    const bool is_computed = activation_.is_static() && buffer.data != constant_;
    const std::vector<int64_t> fresh =
        is_computed ? activation_.corrections(weight_, buffer) : std::vector<int64_t>();
    integer_product(context, w, x, activation_.epilogue(bias, multiplier,
                    is_computed ? fresh : corrections_, 0), y);
  }

 private:
  struct Rows {
    int8_t* codes;
    int64_t stride;
    const int8_t** pointers;
    float* scales;
    int32_t* sums;
  };

  // Codes of rows [first, last), zero-padded, with scales and sums.
  void prepare(const Tensor& x, const Weight& w, const Rows& rows, int64_t first,
               int64_t last) const {
    for (int64_t m = first; m < last; ++m) {
      int8_t* codes = rows.codes + m * rows.stride;
      rows.pointers[m] = codes;
      if (activation_.is_static()) {
        centre_u8_s8_args args{x.as<uint8_t>() + m * w.K, w.K, codes};
        kernels().centre_u8_s8(args);
      } else {
        amax_f32_args amax{x.as<float>() + m * w.K, w.K, 0};
        kernels().amax_f32(amax);
        quantize_f32_s8_args args{amax.x, w.K, 0, activation_.limit(), codes};
        args.scale = rows.scales[m] = dynamic_scale(amax.amax_bits, activation_.limit());
        kernels().quantize_f32_s8(args);
      }
      std::memset(codes + w.K, 0, static_cast<size_t>(rows.stride - w.K));
    }
    rowsum_s8_args sums{rows.pointers + first, last - first, runs_.runs.data(), runs_.ends.data(),
                        w.num_blocks, rows.sums + first * w.num_blocks};
    kernels().rowsum_s8(sums);
  }

  void integer_product(const Context& context, const Weight& w, const Tensor& x, Epilogue epilogue,
                       const Tensor& y) const {
    const int64_t M = y.count / w.N, panels = n16k4_num_panels(w);
    static thread_local Scratch codes, pointers, scales, sums;
    Rows rows;
    rows.stride = ceil_div(padded_row(w), 64) * 64;
    rows.codes = codes.get<int8_t>(M * rows.stride);
    rows.pointers = pointers.get<const int8_t*>(M);
    rows.scales = scales.get<float>(M);
    rows.sums = sums.get<int32_t>(M * w.num_blocks);
    const int64_t per_task = std::max<int64_t>(1, kSerialWork / 4 / w.K);
    context.parallel(ceil_div(M, per_task), [&](int64_t task) {
      prepare(x, w, rows, task * per_task, std::min(M, (task + 1) * per_task));
    });
    const int64_t chunk = std::min(M, kRowChunk), chunks = ceil_div(M, chunk);
    const bool is_static = activation_.is_static();
    const int64_t y_bytes = is_static ? 1 : 4;
    const int64_t panels_per_task =
        std::max<int64_t>(1, kSerialWork / (w.K * kPanel * std::max<int64_t>(1, chunk / 8)));
    const int64_t panel_tasks = ceil_div(panels, panels_per_task);
    context.parallel(chunks * panel_tasks, [&](int64_t task) {
      static thread_local Scratch scratch;
      const int64_t first = task / panel_tasks * chunk, part = task % panel_tasks;
      const int64_t end = std::min(panels, (part + 1) * panels_per_task);
      for (int64_t panel = part * panels_per_task; panel < end; ++panel) {
        matmul_s8_n16k4_args args{};
        args.weight = &w;
        args.panel = panel;
        args.x_rows = rows.pointers + first;
        args.num_rows = std::min(chunk, M - first);
        args.runs = runs_.runs.data();
        args.run_ends = runs_.ends.data();
        args.is_contiguous = true;
        args.x_sums = rows.sums + first * w.num_blocks;
        args.scratch = scratch.get<uint8_t>(n16k4_scratch_bytes(w));
        args.epilogue = at_output(epilogue, panel * kPanel);
        args.epilogue.x_scales = rows.scales + first;
        args.y = static_cast<uint8_t*>(y.data) + (first * w.N + panel * kPanel) * y_bytes;
        args.y_stride = w.N;
        activation_.product()(args);
      }
    });
  }

  void float_product(const Context& context, const Weight& w, const Tensor& x, const Tensor& bias,
                     const Tensor& y) const {
    const int64_t M = y.count / w.N, stride = padded_row(w);
    static thread_local Scratch padded, pointers;
    const float** rows = pointers.get<const float*>(M);
    float* copy = stride == w.K ? nullptr : padded.get<float>(M * stride);
    for (int64_t m = 0; m < M; ++m) {
      rows[m] = x.as<float>() + m * w.K;
      if (!copy) continue;
      std::memcpy(copy + m * stride, rows[m], static_cast<size_t>(w.K) * 4);
      std::memset(copy + m * stride + w.K, 0, static_cast<size_t>(stride - w.K) * 4);
      rows[m] = copy + m * stride;
    }
    context.parallel(n16k4_num_panels(w), [&](int64_t panel) {
      matmul_f32_n16k4_args args{&w, panel, rows, M,
                                 bias.data ? bias.as<float>() + panel * kPanel : nullptr,
                                 activation_.clip_min(), activation_.clip_max(),
                                 static_cast<float*>(y.data) + panel * kPanel, w.N};
      kernels().matmul_f32_n16k4(args);
    });
  }

  const Node node_;
  const WeightInput weight_;
  const Activation activation_;
  Runs runs_;
  const void* constant_ = nullptr;  // the initializer that was checked at creation
  std::vector<int64_t> corrections_;
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  int64_t N;
  if (!context.input(0, &dims, &type) || !context.integer("N", &N)) return;
  dims.back() = Dim{N, ""};
  context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QMatMul>(node); }

}  // namespace

void add_qmatmul(Definitions* out) {
  using namespace ort;
  out->emplace_back("QMatMul", Ports{{kFloat}, {kUint8}, {kFloat, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QMatMul", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
