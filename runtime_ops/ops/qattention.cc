// SPDX-License-Identifier: Apache-2.0
// QAttention: softmax(q · k · scale + mask) · v between codes (docs/ops.md, N30).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "permuted.h"
#include "ops.h"

namespace qcompile {
namespace {

constexpr int64_t kLongest = int64_t{1} << 15;  // K · 255 · 255 < 2^31
constexpr float kLargestMultiplier = 0x1p96f;   // times a sum of int32 it is finite
constexpr int64_t kRowsPerTask = 64;            // share one unpacking of a panel to words
constexpr int64_t kRowBlock = 12;               // whole register blocks of the products
constexpr int64_t kSpare = 64;                  // bytes that kernels may read beyond a row

int64_t padded(int64_t count, int64_t unit) { return ceil_div(count, unit) * unit; }

// A product with codes that the packing of one head made.
struct Packed {
  Weight weight;
  Run run;
  int64_t end = 1;
  int32_t* corrections;  // [whole panels]: what the zero point of the rows adds to each sum

  // N outputs of K columns; the sums of rows start at -zero_point * sum(x).
  Packed(int64_t N, int64_t K, int32_t zero_point) {
    weight.N = N;
    weight.K = weight.block_size = K;
    weight.num_blocks = 1;
    weight.bits = 8;
    weight.offset = zero_point;
    weight.max_byte = 255;
    run = {0, ceil_div(K, kGroup)};
  }
  int64_t outputs() const { return padded(weight.N, kPanel); }
  int64_t code_bytes() const { return padded(n16k4_bytes(weight), 64); }
  int64_t bytes() const { return code_bytes() + outputs() * 4; }
  // The place of one head in the memory of all.
  Packed at(uint8_t* memory) const {
    Packed head = *this;
    head.weight.data = memory;
    head.corrections = reinterpret_cast<int32_t*>(memory + code_bytes());
    return head;
  }
  int64_t row_stride() const { return padded(weight.K, kGroup); }
  int64_t scratch_bytes() const { return n16k4_scratch_bytes(weight); }

  // sums [num_rows, outputs()] of rows that are row_stride() bytes apart.
  void multiply(const int8_t* rows, int64_t num_rows, int32_t* sums) const {
    static thread_local Scratch pointers, row_sums, scratch;
    const int8_t** x = pointers.get<const int8_t*>(num_rows);
    for (int64_t m = 0; m < num_rows; ++m) x[m] = rows + m * row_stride();
    matmul_s8_n16k4_args args{};
    args.weight = &weight;
    args.x_rows = x;
    args.num_rows = num_rows;
    args.runs = &run;
    args.run_ends = &end;
    args.is_contiguous = true;
    if (needs_sums(kernels(), weight, num_rows)) {
      int32_t* found = row_sums.get<int32_t>(num_rows);
      rowsum_s8_args sum_args{x, num_rows, &run, &end, 1, found};
      kernels().rowsum_s8(sum_args);
      args.x_sums = found;
    }
    args.scratch = scratch.get<uint8_t>(scratch_bytes());
    args.y_stride = outputs();
    for (args.panel = 0; args.panel < n16k4_num_panels(weight); ++args.panel) {
      args.y = sums + args.panel * kPanel;
      kernels().matmul_s8_n16k4(args);
    }
  }

  // Packs x and finds factor * sum_k(x[n, k] - zero_point): a row of ones gives the sums.
  void fill(const uint8_t* x, int64_t n_step, int64_t k_step, int32_t factor) {
    static thread_local Scratch memory;
    pack_u8_n16k4_args args{x, n_step, k_step, weight.N, weight.K,
                            static_cast<uint8_t>(weight.offset), const_cast<uint8_t*>(weight.data)};
    kernels().pack_u8_n16k4(args);
    int8_t* ones = memory.get<int8_t>(row_stride() + kSpare);
    std::memset(ones, 0, static_cast<size_t>(row_stride() + kSpare));
    std::memset(ones, 1, static_cast<size_t>(weight.K));
    multiply(ones, 1, corrections);
    for (int64_t n = 0; n < outputs(); ++n) corrections[n] = n < weight.N ? corrections[n] * factor : 0;
  }
};

class QAttention final : public OpKernel {
 public:
  explicit QAttention(const Node& node)
      : node_(node), q_(node, "q"), k_(node, "k"), v_(node, "v"), y_(node, "y"),
        multiplier_(node.number("multiplier")), y_multiplier_(node.number("y_multiplier")) {
    const struct {
      const char* name;
      float value;
    } numbers[] = {{"multiplier", multiplier_}, {"y_multiplier", y_multiplier_}};
    for (const auto& each : numbers) {
      if (std::fabs(each.value) <= kLargestMultiplier) continue;
      node.refuse(std::string(each.name) + " = " + std::to_string(each.value),
                  "docs/numerics.md N30: at most 2^96", std::string("Correct ") + each.name + ".");
    }
    y_max_ = static_cast<int32_t>(node.integer_between("y_max", 0, 255));
    y_min_ = static_cast<int32_t>(node.integer_between("y_min", 0, y_max_));
  }

  void compute(const Context& context) const override {
    const Tensor q = context.input(0), k = context.input(1), v = context.input(2);
    const Tensor mask = context.num_inputs() > 3 ? context.input(3) : Tensor();
    const View views[3] = {q_.of(node_, q), k_.of(node_, k), v_.of(node_, v)};
    const Sizes sizes = check(views, mask);
    std::vector<int64_t> logical = sizes.lead;
    logical.insert(logical.end(), {sizes.L, sizes.E});
    const Tensor y = context.output(0, y_.physical(node_, logical));
    if (y.count == 0) return;
    const View out = y_.of(node_, y);
    if (sizes.S == 0 || sizes.D == 0) {
      node_.refuse("q is " + to_string(q.dims) + ", v is " + to_string(v.dims),
                   "docs/numerics.md N30: a sum of at least one term", "Correct the graph.");
    }
    attend(context, sizes, views, Mask(mask, sizes), out);
  }

 private:
  struct Sizes {
    std::vector<int64_t> lead;
    int64_t L, D, S, E, heads;
  };

  // Where the mask of a row lies: it broadcasts to [lead, L, S].
  struct Mask {
    const float* data = nullptr;
    std::vector<int64_t> lead_steps;
    int64_t row_step = 0, column_step = 0;

    Mask(const Tensor& mask, const Sizes& sizes) {
      if (mask.type == ort::kUndefined) return;
      data = mask.as<float>();
      const size_t rank = sizes.lead.size() + 2;
      std::vector<int64_t> steps(rank, 0);
      int64_t step = 1;
      for (size_t i = mask.dims.size(); i-- > 0;) {
        if (mask.dims[i] != 1) steps[rank - mask.dims.size() + i] = step;
        step *= mask.dims[i];
      }
      column_step = steps[rank - 1];
      row_step = steps[rank - 2];
      lead_steps.assign(steps.begin(), steps.end() - 2);
    }
  };

  Sizes check(const View (&views)[3], const Tensor& mask) const {
    const View &q = views[0], &k = views[1], &v = views[2];
    const size_t rank = q.sizes.size();
    Sizes s;
    bool fits = rank >= 2 && k.sizes.size() == rank && v.sizes.size() == rank;
    for (size_t i = 0; fits && i + 2 < rank; ++i) {
      const int64_t size = std::max({q.sizes[i], k.sizes[i], v.sizes[i]});
      const bool is_empty = !q.sizes[i] || !k.sizes[i] || !v.sizes[i];
      s.lead.push_back(is_empty ? 0 : size);
      for (const View* each : {&q, &k, &v}) {
        fits &= each->sizes[i] == 1 || each->sizes[i] == s.lead.back();
      }
    }
    if (fits) {
      s.L = q.sizes[rank - 2], s.D = q.sizes[rank - 1];
      s.S = k.sizes[rank - 1], s.E = v.sizes[rank - 1];
      fits = k.sizes[rank - 2] == s.D && v.sizes[rank - 2] == s.S;
    }
    if (!fits) {
      node_.refuse("q, k and v are " + to_string(q.sizes) + ", " + to_string(k.sizes) + " and " +
                       to_string(v.sizes),
                   "docs/ops.md: q [..., L, D], k [..., D, S], v [..., S, E]", "Correct the graph.");
    }
    if (s.D > kLongest || s.S > kLongest) {
      node_.refuse("D = " + std::to_string(s.D) + ", S = " + std::to_string(s.S),
                   "docs/numerics.md N30: at most 2^15", "Use a shorter sequence.");
    }
    s.heads = count_elements(s.lead);
    check_mask(s, mask);
    return s;
  }

  void check_mask(const Sizes& s, const Tensor& mask) const {
    if (mask.type == ort::kUndefined) return;
    std::vector<int64_t> whole = s.lead;
    whole.insert(whole.end(), {s.L, s.S});
    bool fits = mask.dims.size() <= whole.size();
    for (size_t i = 0; fits && i < mask.dims.size(); ++i) {
      const int64_t size = mask.dims[mask.dims.size() - 1 - i];
      fits = size == 1 || size == whole[whole.size() - 1 - i];
    }
    if (fits) return;
    node_.refuse("mask is " + to_string(mask.dims) + ", the scores are " + to_string(whole),
                 "docs/ops.md: mask broadcasts to [..., L, S]", "Correct the graph.");
  }

  // The offset of a head; a size of 1 is shared by all.
  static int64_t offset_of(int64_t head, const std::vector<int64_t>& lead,
                           const std::vector<int64_t>& steps) {
    int64_t offset = 0;
    for (size_t i = lead.size(); i-- > 0; head /= lead[i]) offset += head % lead[i] * steps[i];
    return offset;
  }

  void attend(const Context& context, const Sizes& s, const View (&views)[3], const Mask& mask,
              const View& out) const {
    const Packed keys(s.S, s.D, k_.zero_point()), values(s.E, s.S, v_.zero_point());
    const int64_t head_bytes = keys.bytes() + values.bytes();
    static thread_local Scratch memory;
    uint8_t* const packed = memory.get<uint8_t>(s.heads * head_bytes + kSpare);
    context.parallel(s.heads, [&](int64_t head) {
      uint8_t* const place = packed + head * head_bytes;
      Packed k = keys.at(place), v = values.at(place + keys.bytes());
      const size_t r = s.lead.size();
      const View &from_k = views[1], &from_v = views[2];
      k.fill(from_k.data + offset_of(head, s.lead, from_k.lead_steps()), from_k.steps[r + 1],
             from_k.steps[r], 128 - q_.zero_point());
      v.fill(from_v.data + offset_of(head, s.lead, from_v.lead_steps()), from_v.steps[r + 1],
             from_v.steps[r], 128);
    });
    const int64_t rows = padded(ceil_div(s.L, ceil_div(s.L, kRowsPerTask)), kRowBlock);
    const int64_t blocks = ceil_div(s.L, rows);
    context.parallel(s.heads * blocks, [&](int64_t task) {
      const int64_t head = task / blocks, first = task % blocks * rows;
      uint8_t* const place = packed + head * head_bytes;
      const Block block{head, first, std::min(rows, s.L - first)};
      attend_rows(s, views[0], keys.at(place), values.at(place + keys.bytes()), mask, out, block);
    });
  }

  struct Block {
    int64_t head, first, count;
  };

  void attend_rows(const Sizes& s, const View& q, const Packed& keys, const Packed& values,
                   const Mask& mask, const View& out, const Block& b) const {
    static thread_local Scratch rows, sums, codes, totals, scores;
    const size_t r = s.lead.size();
    int8_t* x = rows.get<int8_t>(b.count * keys.row_stride() + kSpare);
    const uint8_t* from = q.data + offset_of(b.head, s.lead, q.lead_steps()) + b.first * q.steps[r];
    centre_rows(from, q.steps[r], q.steps[r + 1], s.D, b.count, keys.row_stride(), x);
    const int64_t wide = std::max(keys.outputs(), values.outputs());
    int32_t* found = sums.get<int32_t>(b.count * wide);
    keys.multiply(x, b.count, found);

    int8_t* p = codes.get<int8_t>(b.count * values.row_stride() + kSpare);
    int32_t* total = totals.get<int32_t>(b.count);
    softmax_s32_args args{};
    args.corrections = keys.corrections;
    args.num_columns = s.S;
    args.multiplier = multiplier_;
    args.mask_step = mask.column_step;
    args.scores = scores.get<float>(keys.outputs());
    const float* masks =
        mask.data ? mask.data + offset_of(b.head, s.lead, mask.lead_steps) : nullptr;
    for (int64_t m = 0; m < b.count; ++m) {
      args.sums = found + m * keys.outputs();
      args.mask = masks ? masks + (b.first + m) * mask.row_step : nullptr;
      args.codes = p + m * values.row_stride();
      kernels().softmax_s32(args);
      total[m] = args.total;
      std::memset(args.codes + s.S, 0, static_cast<size_t>(values.row_stride() - s.S));
    }
    values.multiply(p, b.count, found);
    finish(s, values, found, total, out, b);
  }

  // Centred rows of D codes, zero-padded.
  static void centre_rows(const uint8_t* x, int64_t row_step, int64_t column_step, int64_t columns,
                          int64_t count, int64_t stride, int8_t* out) {
    for (int64_t m = 0; m < count; ++m, x += row_step, out += stride) {
      if (column_step == 1) {
        centre_u8_s8_args args{x, columns, out};
        kernels().centre_u8_s8(args);
      } else {
        for (int64_t i = 0; i < columns; ++i) out[i] = static_cast<int8_t>(x[i * column_step] - 128);
      }
      std::memset(out + columns, 0, static_cast<size_t>(stride - columns));
    }
  }

  void finish(const Sizes& s, const Packed& values, const int32_t* sums, const int32_t* totals,
              const View& out, const Block& b) const {
    const size_t r = s.lead.size();
    uint8_t* y = const_cast<uint8_t*>(out.data) + offset_of(b.head, s.lead, out.lead_steps()) +
                 b.first * out.steps[r];
    static thread_local Scratch memory;
    requantize_s32_args args{};
    args.corrections = values.corrections;
    args.count = s.E;
    args.y_zero_point = y_.zero_point();
    args.y_min = y_min_;
    args.y_max = y_max_;
    const int64_t step = out.steps[r + 1];
    uint8_t* const row = step == 1 ? nullptr : memory.get<uint8_t>(s.E);
    for (int64_t m = 0; m < b.count; ++m, y += out.steps[r], sums += values.outputs()) {
      args.sums = sums;
      args.multiplier = totals[m] ? static_cast<float>(static_cast<double>(y_multiplier_) /
                                                       static_cast<double>(totals[m]))
                                  : 0;  // a row that sees nothing
      args.y = row ? row : y;
      kernels().requantize_s32(args);
      for (int64_t i = 0; row && i < s.E; ++i) y[i * step] = row[i];
    }
  }

  const Node node_;
  const Permuted q_, k_, v_, y_;
  const float multiplier_, y_multiplier_;
  int32_t y_min_, y_max_;
};

// What dims mean to the op, or which dims mean these (`is_output`). False: NAME_perm does not fit.
bool permuted(const ShapeContext& context, const char* name, bool is_output,
              std::vector<Dim>* dims) {
  std::vector<int64_t> perm;
  if (!context.integers(name, &perm) || perm.empty()) return true;
  const std::vector<Dim> from = *dims;
  if (perm.size() > from.size() || (is_output && perm.size() < from.size())) return false;
  if (!is_output) dims->resize(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) {
    if (perm[i] < 0 || perm[i] >= static_cast<int64_t>(from.size())) return false;
    const size_t axis = static_cast<size_t>(perm[i]);
    is_output ? (*dims)[axis] = from[i] : (*dims)[i] = from[axis];
  }
  return true;
}

void infer(const ShapeContext& context) {
  std::vector<Dim> dims[3];
  ort::TensorType type;
  const char* const names[] = {"q_perm", "k_perm", "v_perm"};
  for (size_t i = 0; i < 3; ++i) {
    if (!context.input(i, &dims[i], &type) || !permuted(context, names[i], false, &dims[i])) return;
    if (dims[i].size() != dims[0].size() || dims[i].size() < 2) return;
  }
  std::vector<Dim> y = dims[0];
  for (size_t i = 0; i + 2 < y.size(); ++i) {
    for (size_t other : {1, 2}) {
      if (y[i].size == 1) y[i] = dims[other][i];
    }
  }
  y.back() = dims[2].back();
  if (permuted(context, "y_perm", true, &y)) context.set_output(0, type, y);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QAttention>(node); }

}  // namespace

void add_qattention(Definitions* out) {
  using namespace ort;
  out->emplace_back("QAttention", Ports{{kUint8}, {kUint8}, {kUint8}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
