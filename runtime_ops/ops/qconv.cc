// SPDX-License-Identifier: Apache-2.0
// QConv: NHWC convolutions, grouped and depthwise (docs/ops.md). The input is centred or quantized
// once into a map with its padding written out, which the products read.
#include <algorithm>

#include "convolution.h"
#include "ops.h"

namespace qcompile {
namespace {

class QConv final : public OpKernel {
 public:
  explicit QConv(const Node& node)
      : node_(node), is_depthwise_(node.text("layout") == "kc/1"),
        shape_{read_window(node, false), node.integer("group", 1)},
        weight_(node, is_depthwise_ ? 1 : shape_.group), activation_(node, weight_, false),
        operands_(node, weight_, activation_) {
    check_shape();
    const ProductOperands& constants = operands_.constants();
    if (!is_depthwise_ || !constants.weight) return;
    depthwise_.read(shape_, weight_.weight(constants.weight), activation_, constants, nullptr);
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0);
    activation_.check_x(x);
    const ConvMap map = read_map(x);
    std::vector<int64_t> fresh;
    const ProductOperands operands = operands_.read(context, &fresh);
    const Tensor y = context.output(0, {map.B, map.OH, map.OW, weight_.N()});
    if (y.count == 0) return;
    static thread_local Scratch padded, sample_scales;
    int8_t* codes = padded.get<int8_t>(map.B * map.sample_bytes());
    float* scales = sample_scales.get<float>(map.B);
    fill_codes(context, activation_, x, map, codes, scales);
    const Convolution conv{&shape_, &weight_, &activation_, map, operands, codes, scales,
                           static_cast<uint8_t*>(y.data)};
    if (!is_depthwise_) return dense_convolution(context, conv);
    if (operands_.are_constant(operands)) return depthwise_convolution(context, conv, depthwise_);
    static thread_local DepthwiseOperands read;
    read.read(shape_, weight_.weight(operands.weight), activation_, operands, depthwise_.unpacked);
    depthwise_convolution(context, conv, read);
  }

 private:
  int64_t channels() const {
    return is_depthwise_ ? weight_.N() : weight_.K() / taps() * shape_.group;
  }
  int64_t taps() const { return shape_.window.kernel[0] * shape_.window.kernel[1]; }

  void check_shape() const {
    const bool fits = is_depthwise_ ? shape_.group == weight_.N() && weight_.K() == taps()
                                    : weight_.K() % taps() == 0;
    if (weight_.layout() == LayoutKind::kRows || !fits) {
      node_.refuse("layout " + node_.text("layout") + ", N = " + std::to_string(weight_.N()) +
                       ", K = " + std::to_string(weight_.K()) + ", group = " +
                       std::to_string(shape_.group) + ", " + std::to_string(taps()) + " taps",
                   "docs/ops.md: n16k4/1 with K = kh*kw*C/group, or kc/1 with group = C = N and "
                   "K = kh*kw", "Pack the model again with this version of qcompile.");
    }
  }

  ConvMap read_map(const Tensor& x) const {
    check_map(node_, shape_.window, x);
    if (x.dims[3] != channels()) {
      node_.refuse("X is " + to_string(x.dims) + "; the weight has " + std::to_string(channels()) +
                       " input channels", "docs/ops.md: X is NHWC", "Correct the graph.");
    }
    ConvMap map;
    map.B = x.dims[0];
    map.H = x.dims[1];
    map.W = x.dims[2];
    map.C = x.dims[3];
    map.OH = shape_.window.output_size(0, map.H);
    map.OW = shape_.window.output_size(1, map.W);
    map.padded_h = map.H + shape_.window.pads[0] + shape_.window.pads[2];
    map.padded_w = map.W + shape_.window.pads[1] + shape_.window.pads[3];
    std::copy_n(shape_.window.pads, 4, map.pads);
    return map;
  }

  const Node node_;
  const bool is_depthwise_;
  const ConvShape shape_;
  const WeightInput weight_;
  const Activation activation_;
  const Operands operands_;
  DepthwiseOperands depthwise_;  // of the initializers
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  int64_t N;
  if (!context.input(0, &dims, &type) || dims.size() != 4 || !context.integer("N", &N)) return;
  if (!infer_window(context, false, &dims)) return;
  dims[3] = Dim{N, ""};
  context.set_output(0, output_type(context, type), dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QConv>(node); }

}  // namespace

void add_qconv(Definitions* out) {
  using namespace ort;
  out->emplace_back("QConv", Ports{{kFloat}, {kUint8}, {kFloat, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QConv", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer);
  out->emplace_back("QConv", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QConv", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kInt32, kOptional}},
                    Ports{{kUint8}}, create, infer);
  out->emplace_back("QConv", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kInt32, kOptional}},
                    Ports{{kInt32}}, create, infer);
}

}  // namespace qcompile
