// SPDX-License-Identifier: Apache-2.0
// QPool: maximum or average over windows of a uint8 map, NHWC (docs/ops.md, N19, N21, N22).
#include <algorithm>

#include "../kernels/dyadic.h"
#include "ops.h"
#include "requantize.h"
#include "window.h"

namespace qcompile {
namespace {

class QPool final : public OpKernel {
 public:
  explicit QPool(const Node& node) : node_(node), window_(read_window(node, true)) {
    const std::string mode = node.text("mode");
    if (mode != "max" && mode != "average") {
      node.refuse("mode = \"" + mode + "\"; it is max or average", "docs/ops.md", "Correct it.");
    }
    args_.is_average = mode == "average";
    count_include_pad_ = node.integer("count_include_pad", 0);
    if (!args_.is_average) return;
    if (window_.is_ceil && count_include_pad_) {
      node.refuse("ceil_mode = 1 with count_include_pad = 1", "docs/ops.md", "Correct one of them.");
    }
    args_.multiplier = read_multiplier(node, "multiplier");
    args_.is_dyadic = reads_dyadic(node);
    args_.x_zero_point = static_cast<int32_t>(node.integer_between("x_zero_point", 0, 255));
    args_.y_zero_point = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
    args_.y_max = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    args_.y_min = static_cast<int32_t>(node.integer_between("y_min", 0, args_.y_max));
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    check_map(node_, window_, x);
    const int64_t H = x.dims[1], W = x.dims[2];
    const Window window = window_.on(H, W);
    check_window(window, x);
    const int64_t OH = H ? window.output_size(0, H) : 0, OW = W ? window.output_size(1, W) : 0;
    const Tensor y = context.output(0, {x.dims[0], OH, OW, x.dims[3]});
    if (y.count == 0) return;
    context.parallel(x.dims[0] * OH, [&](int64_t line) {
      for (int64_t ox = 0; ox < OW; ++ox) pixel(window, x, y, line / OH, line % OH, ox, OH, OW);
    });
  }

 private:
  // A window that lies in the padding alone has no maximum, and the int32 sum needs < 2^23 taps.
  void check_window(const Window& window, const Tensor& x) const {
    for (int axis = 0; axis < 2; ++axis) {
      const bool is_inside = window.pads[axis] < std::max<int64_t>(1, window.kernel[axis]) &&
                             window.pads[axis + 2] < std::max<int64_t>(1, window.kernel[axis]);
      if (!is_inside || window.kernel[0] * window.kernel[1] > (int64_t{1} << 23)) {
        node_.refuse("kernel_shape = [" + std::to_string(window.kernel[0]) + ", " +
                         std::to_string(window.kernel[1]) + "] on X " + to_string(x.dims),
                     "pads are smaller than the kernel, and it has at most 2^23 taps",
                     "Correct pads or kernel_shape.");
      }
    }
  }

  void pixel(const Window& window, const Tensor& x, const Tensor& y, int64_t b, int64_t oy,
             int64_t ox, int64_t OH, int64_t OW) const {
    const int64_t H = x.dims[1], W = x.dims[2], C = x.dims[3];
    int64_t first[2], taps[2];
    const int64_t at[2] = {oy, ox}, sizes[2] = {H, W};
    for (int axis = 0; axis < 2; ++axis) {
      // Taps i with 0 <= start + i * dilation < size.
      const int64_t start = at[axis] * window.strides[axis] - window.pads[axis];
      const int64_t step = window.dilations[axis];
      const int64_t low = start < 0 ? ceil_div(-start, step) : 0;
      const int64_t high = std::min(window.kernel[axis],
                                    start < sizes[axis] ? ceil_div(sizes[axis] - start, step) : 0);
      first[axis] = start + low * step;
      taps[axis] = std::max<int64_t>(0, high - low);
    }
    pool_u8_args args = args_;
    args.num_rows = taps[0];
    args.num_columns = taps[1];
    if (taps[0] == 0 || taps[1] == 0) first[0] = first[1] = args.num_rows = args.num_columns = 0;
    args.row_stride = window.dilations[0] * W * C;
    args.column_stride = window.dilations[1] * C;
    args.num_channels = C;
    args.x = x.as<uint8_t>() + ((b * H + first[0]) * W + first[1]) * C;
    args.y = static_cast<uint8_t*>(y.data) + ((b * OH + oy) * OW + ox) * C;
    const int64_t count = count_include_pad_ ? window.kernel[0] * window.kernel[1]
                                             : std::max<int64_t>(1, taps[0] * taps[1]);
    if (args.is_dyadic) {
      const Dyadic found = dyadic(static_cast<double>(args_.multiplier) / static_cast<double>(count));
      args.m = found.m;
      args.e = found.e;
    }
    args.multiplier = args_.multiplier / static_cast<float>(count);  // N21
    kernels().pool_u8(args);
  }

  const Node node_;
  const Window window_;
  bool count_include_pad_ = false;
  pool_u8_args args_{};
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  if (!context.input(0, &dims, &type) || dims.size() != 4) return;
  if (infer_window(context, true, &dims)) context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QPool>(node); }

}  // namespace

void add_qpool(Definitions* out) {
  using namespace ort;
  out->emplace_back("QPool", Ports{{kUint8}}, Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
