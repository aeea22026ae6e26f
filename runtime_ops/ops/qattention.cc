// SPDX-License-Identifier: Apache-2.0
// QAttention: softmax(q · k · scale + mask) · v between codes (docs/ops.md, N30, N43).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention_parts.h"
#include "ops.h"

namespace qcompile {
namespace {

constexpr float kLargestMultiplier = 0x1p96f;  // times a sum of int32 it is finite

// The weights that `softmax_format` asks for, N43.
SoftmaxLevels levels_of(const Node& node) {
  const std::string name = node.text("softmax_format", "uint8");
  SoftmaxLevels found;
  if (name == "uint8") return found;
  const bool is_twin = name.compare(0, 4, "twin") == 0 && name.size() == 5;
  const int bits = name.empty() ? 0 : name.back() - '0';
  if (is_twin && bits >= 3 && bits <= 8) {
    const int shift = static_cast<int>(node.integer_between("softmax_shift", 1, 9 - bits));
    found.kind = SoftmaxKind::kTwin;
    found.last_fine = (1 << (bits - 1)) - 1;
    found.half = 1 << (shift - 1);
    found.top = static_cast<float>(found.last_fine << shift);
    found.edge = (found.last_fine + (((found.last_fine >> shift) + 1) << shift)) / 2;
    return found;
  }
  if (name.compare(0, 5, "log2_") != 0 || name.size() != 6 || bits < 2 || bits > 4) {
    node.refuse("softmax_format = \"" + name + "\"; it is uint8, log2_2 ... log2_4 or twin3 ... twin8",
                "docs/numerics.md N43", "Correct softmax_format.");
  }
  found.kind = bits == 4 ? SoftmaxKind::kWidePowers : SoftmaxKind::kPowers;
  found.top = static_cast<float>(1 << ((1 << bits) - 2));
  return found;
}

class QAttention final : public OpKernel {
 public:
  explicit QAttention(const Node& node)
      : node_(node), q_(node, "q"), k_(node, "k"), v_(node, "v"), y_(node, "y"),
        multiplier_(node.number("multiplier")), y_multiplier_(node.number("y_multiplier")),
        levels_(levels_of(node)) {
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
    const AttentionSizes sizes(node_, views, mask);
    if (!sizes.fits_codes()) {
      node_.refuse("D = " + std::to_string(sizes.D) + ", S = " + std::to_string(sizes.S),
                   "docs/numerics.md N30: at most 2^15", "Use a shorter sequence.");
    }
    const Tensor y = context.output(0, y_.physical(node_, sizes.output()));
    if (y.count == 0) return;
    attend(context, sizes, views, AttentionMask(sizes, mask), y_.of(node_, y));
  }

 private:
  void attend(const Context& context, const AttentionSizes& s, const View (&views)[3],
              const AttentionMask& mask, const View& out) const {
    const PackedHead keys(s.S, s.D, k_.zero_point()), values(s.E, s.S, v_.zero_point());
    const View &from_k = views[1], &from_v = views[2];
    const Heads k_heads(s, from_k), v_heads(s, from_v);
    const int64_t k_bytes = k_heads.count * keys.bytes();
    static thread_local Scratch memory;
    uint8_t* const packed_k =
        memory.get<uint8_t>(k_bytes + v_heads.count * values.bytes() + kSpareBytes);
    uint8_t* const packed_v = packed_k + k_bytes;
    const size_t r = s.lead.size();
    context.parallel(k_heads.count + v_heads.count, [&](int64_t task) {
      const int64_t i = task - k_heads.count;
      if (i < 0) {
        keys.at(packed_k + task * keys.bytes())
            .fill(from_k.data + k_heads.own_offset(task), from_k.steps[r + 1], from_k.steps[r],
                  128 - q_.zero_point());
      } else {
        values.at(packed_v + i * values.bytes())
            .fill(from_v.data + v_heads.own_offset(i), from_v.steps[r + 1], from_v.steps[r], 128);
      }
    });
    const Heads q_heads(s, views[0]), y_heads(s, out);
    const RowBlocks blocks(s.L);
    context.parallel(s.heads * blocks.count, [&](int64_t task) {
      const int64_t head = task / blocks.count, first = task % blocks.count * blocks.rows;
      const Block block{head, first, std::min(blocks.rows, s.L - first),
                        views[0].data + q_heads.offset_of(head) + first * views[0].steps[r],
                        const_cast<uint8_t*>(out.data) + y_heads.offset_of(head) + first * out.steps[r]};
      attend_rows(s, views[0], keys.at(packed_k + k_heads.index_of(head) * keys.bytes()),
                  values.at(packed_v + v_heads.index_of(head) * values.bytes()), mask, out, block);
    });
  }

  // Some rows of a head: where q lies, and y.
  struct Block {
    int64_t head, first, count;
    const uint8_t* q;
    uint8_t* y;
  };

  void attend_rows(const AttentionSizes& s, const View& q, const PackedHead& keys,
                   const PackedHead& values, const AttentionMask& mask, const View& out,
                   const Block& b) const {
    static thread_local Scratch rows, sums, codes, totals, scores;
    const size_t r = s.lead.size();
    int8_t* x = rows.get<int8_t>(b.count * keys.row_stride() + kSpareBytes);
    centre_rows(b.q, q.steps[r], q.steps[r + 1], s.D, b.count, keys.row_stride(), x);
    const int64_t planes = levels_.is_wide() ? 2 : 1;
    const int64_t wide = std::max(keys.outputs(), planes * values.outputs());
    int32_t* found = sums.get<int32_t>(b.count * wide);
    const int64_t seen = mask.seen(b.head, b.first, b.count, s.S);
    keys.multiply(x, b.count, seen, found);

    const int64_t plane = b.count * values.row_stride();
    int8_t* p = codes.get<int8_t>(planes * plane + kSpareBytes);
    int32_t* total = totals.get<int32_t>(b.count);
    softmax_s32_args args{};
    args.corrections = keys.corrections;
    args.num_columns = seen;
    args.multiplier = multiplier_;
    args.mask_step = mask.column_step;
    args.scores = scores.get<float>(keys.outputs());
    args.levels = levels_;
    for (int64_t m = 0; m < b.count; ++m) {
      args.sums = found + m * keys.outputs();
      args.mask = mask.row(b.head, b.first + m);
      args.codes = p + m * values.row_stride();
      args.low_codes = args.codes + plane;
      kernels().softmax_s32(args);
      total[m] = args.total;
      for (int64_t i = 0; i < planes; ++i) {
        int8_t* const row = args.codes + i * plane;
        std::memset(row + seen, -128, static_cast<size_t>(s.S - seen));
        std::memset(row + s.S, 0, static_cast<size_t>(values.row_stride() - s.S));
      }
    }
    values.multiply(p, planes * b.count, s.E, found);
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

  void finish(const AttentionSizes& s, const PackedHead& values, const int32_t* sums,
              const int32_t* totals, const View& out, const Block& b) const {
    const size_t r = s.lead.size();
    uint8_t* y = b.y;
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
      args.low_sums = levels_.is_wide() ? sums + b.count * values.outputs() : nullptr;
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
  const SoftmaxLevels levels_;
  int32_t y_min_, y_max_;
};

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QAttention>(node); }

}  // namespace

void add_qattention(Definitions* out) {
  using namespace ort;
  out->emplace_back("QAttention", Ports{{kUint8}, {kUint8}, {kUint8}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer_attention);
}

}  // namespace qcompile
