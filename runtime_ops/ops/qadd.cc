// SPDX-License-Identifier: Apache-2.0
// QAdd and QMul: the sum and the product of two uint8 tensors, broadcast (docs/ops.md, N12, N18, N20, N26).
#include <algorithm>

#include "../kernels/dyadic.h"
#include "ops.h"
#include "requantize.h"

namespace qcompile {
namespace {

constexpr int64_t kPerTask = 64 * 1024;

class QBinary final : public OpKernel {
 public:
  QBinary(const Node& node, bool is_product)
      : node_(node), kernel_(is_product ? kernels().mul_u8_u8 : kernels().add_u8_u8) {
    args_.a_multiplier = read_multiplier(node, is_product ? "multiplier" : "a_multiplier");
    if (!is_product) args_.b_multiplier = read_multiplier(node, "b_multiplier");
    args_.is_dyadic = reads_dyadic(node);
    if (args_.is_dyadic) read_dyadic();
    args_.a_zero_point = static_cast<int32_t>(node.integer_between("a_zero_point", 0, 255));
    args_.b_zero_point = static_cast<int32_t>(node.integer_between("b_zero_point", 0, 255));
    args_.y_zero_point = static_cast<int32_t>(node.integer_between("y_zero_point", 0, 255));
    args_.y_max = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    args_.y_min = static_cast<int32_t>(node.integer_between("y_min", 0, args_.y_max));
  }

  void compute(const Context& context) const override {
    const Tensor a = context.input(0), b = context.input(1);
    const std::vector<int64_t> dims = broadcast(a.dims, b.dims);
    const Tensor y = context.output(0, dims);
    if (y.count == 0) return;
    if (a.dims == b.dims) {
      context.parallel(ceil_div(y.count, kPerTask), [&](int64_t task) {
        const int64_t first = task * kPerTask;
        run(a, b, y, first, first, first, std::min(kPerTask, y.count - first), 1, 1);
      });
      return;
    }
    run_broadcast(context, a, b, y, dims);
  }

 private:
  // N18, and N12 for a product, whose b_multiplier is 0.
  void read_dyadic() {
    const double a = args_.a_multiplier, b = args_.b_multiplier;
    args_.e = dyadic(std::max(std::fabs(a), std::fabs(b))).e;
    args_.a_m = dyadic_factor(a, args_.e);
    args_.b_m = dyadic_factor(b, args_.e);
  }

  std::vector<int64_t> broadcast(const std::vector<int64_t>& a,
                                 const std::vector<int64_t>& b) const {
    std::vector<int64_t> dims(std::max(a.size(), b.size()));
    for (size_t i = 0; i < dims.size(); ++i) {
      const int64_t m = i < a.size() ? a[a.size() - 1 - i] : 1;
      const int64_t n = i < b.size() ? b[b.size() - 1 - i] : 1;
      if (m != n && m != 1 && n != 1) {
        node_.refuse("A is " + to_string(a) + ", B is " + to_string(b),
                     "docs/ops.md: shapes that broadcast", "Correct the graph.");
      }
      dims[dims.size() - 1 - i] = m == 1 ? n : m;
    }
    return dims;
  }

  void run(const Tensor& a, const Tensor& b, const Tensor& y, int64_t at_a, int64_t at_b,
           int64_t at_y, int64_t count, int64_t a_step, int64_t b_step) const {
    add_u8_u8_args args = args_;
    args.a = a.as<uint8_t>() + at_a;
    args.b = b.as<uint8_t>() + at_b;
    args.y = static_cast<uint8_t*>(y.data) + at_y;
    args.a_step = a_step;
    args.b_step = b_step;
    args.count = count;
    kernel_(args);
  }

  // Elements to move in `t` for one step along each dim of the result; 0 where it is broadcast.
  static std::vector<int64_t> steps(const Tensor& t, size_t rank) {
    std::vector<int64_t> steps(rank, 0);
    int64_t step = 1;
    for (size_t i = 0; i < t.dims.size(); ++i) {
      const int64_t dim = t.dims[t.dims.size() - 1 - i];
      steps[rank - 1 - i] = dim == 1 ? 0 : step;
      step *= dim;
    }
    return steps;
  }

  // One kernel call a line of the last dimension.
  void run_broadcast(const Context& context, const Tensor& a, const Tensor& b, const Tensor& y,
                     const std::vector<int64_t>& dims) const {
    const size_t rank = dims.size();
    const std::vector<int64_t> a_steps = steps(a, rank), b_steps = steps(b, rank);
    const int64_t line = dims[rank - 1], lines = y.count / line;
    const int64_t per_task = std::max<int64_t>(1, kPerTask / line);
    context.parallel(ceil_div(lines, per_task), [&](int64_t task) {
      for (int64_t l = task * per_task; l < std::min(lines, (task + 1) * per_task); ++l) {
        int64_t at_a = 0, at_b = 0, left = l;
        for (size_t i = rank - 1; i-- > 0;) {
          at_a += left % dims[i] * a_steps[i];
          at_b += left % dims[i] * b_steps[i];
          left /= dims[i];
        }
        run(a, b, y, at_a, at_b, l * line, line, a_steps[rank - 1], b_steps[rank - 1]);
      }
    });
  }

  const Node node_;
  void (*const kernel_)(add_u8_u8_args&);
  add_u8_u8_args args_{};
};

void infer(const ShapeContext& context) {
  std::vector<Dim> a, b;
  ort::TensorType type;
  if (!context.input(0, &a, &type) || !context.input(1, &b, &type)) return;
  std::vector<Dim>& longer = a.size() < b.size() ? b : a;
  const std::vector<Dim>& shorter = a.size() < b.size() ? a : b;
  const size_t lead = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    Dim& dim = longer[lead + i];
    const Dim& other = shorter[i];
    if (dim.size == 1) {
      dim = other;
    } else if (dim.size < 0 && other.size > 1) {
      dim = other;  // an unknown size can only be equal to it, or 1
    } else if (dim.size < 0 && other.size < 0 && dim.name != other.name) {
      dim = Dim();
    }
  }
  context.set_output(0, type, longer);
}

template <bool kIsProduct>
std::unique_ptr<OpKernel> create(const Node& node) {
  return std::make_unique<QBinary>(node, kIsProduct);
}

}  // namespace

void add_qadd(Definitions* out) {
  using namespace ort;
  out->emplace_back("QAdd", Ports{{kUint8}, {kUint8}}, Ports{{kUint8}}, create<false>, infer);
}

void add_qmul(Definitions* out) {
  using namespace ort;
  out->emplace_back("QMul", Ports{{kUint8}, {kUint8}}, Ports{{kUint8}}, create<true>, infer);
}

}  // namespace qcompile
