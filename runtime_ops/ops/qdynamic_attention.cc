// SPDX-License-Identifier: Apache-2.0
// QDynamicAttention: softmax(q · k · scale + mask) · v of floats, by products of codes
// (docs/ops.md, N32).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention_parts.h"
#include "ops.h"

namespace qcompile {
namespace {

constexpr int32_t kLimit = 127;  // of 8-bit codes, N4
constexpr int64_t kFewRows = 16;  // that share a head of keys: fewer do not pay its coding, N32

// Rows of floats, side by side: those of x where they lie so, else copies.
struct FloatRows {
  const float* data;
  int64_t row_step;

  FloatRows(const float* x, int64_t row, int64_t column, int64_t num_rows, int64_t num_columns,
            Scratch* memory)
      : data(x), row_step(row) {
    if (column == 1 || num_columns == 1) return;
    float* const copy = memory->get<float>(num_rows * num_columns);
    for (int64_t m = 0; m < num_rows; ++m) {
      for (int64_t i = 0; i < num_columns; ++i) copy[m * num_columns + i] = x[m * row + i * column];
    }
    data = copy;
    row_step = num_columns;
  }
};

// Keys and values of all heads in codes.
struct Coded {
  PackedHead keys, values;
  Heads k_heads, v_heads;
  uint8_t *k_codes = nullptr, *v_codes = nullptr;
  float *k_scales = nullptr, *v_scales = nullptr;  // [heads, outputs]; NaN first: the head is lost

  Coded(const AttentionSizes& s, const View& k, const View& v)
      : keys(s.S, s.D, 128), values(s.E, s.S, 128), k_heads(s, k), v_heads(s, v) {}

  void place(Scratch* memory) {
    const int64_t k_bytes = k_heads.count * keys.bytes(), v_bytes = v_heads.count * values.bytes();
    const int64_t num_scales = k_heads.count * keys.outputs() + v_heads.count * values.outputs();
    k_codes = memory->get<uint8_t>(k_bytes + v_bytes + 4 * num_scales + kSpareBytes);
    v_codes = k_codes + k_bytes;
    k_scales = reinterpret_cast<float*>(v_codes + v_bytes);
    v_scales = k_scales + k_heads.count * keys.outputs();
  }
  PackedHead keys_of(int64_t i) const { return keys.at(k_codes + i * keys.bytes()); }
  PackedHead values_of(int64_t i) const { return values.at(v_codes + i * values.bytes()); }

  // k is [D, S] by its steps: a row of it here is a key.
  void fill_keys(const AttentionSizes& s, const View& k, int64_t i) const {
    static thread_local Scratch copied, mean, codes;
    const size_t r = s.lead.size();
    const float* x = k.floats() + k_heads.own_offset(i);
    const FloatRows rows(x, k.steps[r + 1], k.steps[r], s.S, s.D, &copied);
    uint8_t* const bytes = codes.get<uint8_t>(s.S * s.D + kSpareBytes);
    float* const scales = k_scales + i * keys.outputs();
    quantize_keys_f32_u8_args args{rows.data, rows.row_step, s.S,   s.D,
                                   kLimit,    mean.get<float>(s.D + 16), bytes, scales};
    kernels().quantize_keys_f32_u8(args);
    for (int64_t n = 0; n < s.S; ++n) {
      if (std::isnan(scales[n])) scales[0] = NAN;
    }
    std::fill(scales + s.S, scales + keys.outputs(), 0.0f);
    keys_of(i).fill(bytes, s.D, 1, 0);
  }

  void fill_values(const AttentionSizes& s, const View& v, int64_t i) const {
    static thread_local Scratch copied, codes;
    const size_t r = s.lead.size();
    const float* x = v.floats() + v_heads.own_offset(i);
    const FloatRows rows(x, v.steps[r], v.steps[r + 1], s.S, s.E, &copied);
    uint8_t* const bytes = codes.get<uint8_t>(s.S * s.E + kSpareBytes);
    float* const scales = v_scales + i * values.outputs();
    quantize_columns_f32_u8_args args{rows.data, rows.row_step, s.S, s.E, kLimit, bytes, scales};
    kernels().quantize_columns_f32_u8(args);
    std::fill(scales + s.E, scales + values.outputs(), 0.0f);
    values_of(i).fill(bytes, 1, s.E, 128);
  }
};

class QDynamicAttention final : public OpKernel {
 public:
  explicit QDynamicAttention(const Node& node)
      : node_(node), q_(node, "q", Elements::kFloats), k_(node, "k", Elements::kFloats),
        v_(node, "v", Elements::kFloats), y_(node, "y", Elements::kFloats),
        multiplier_(node.number("multiplier")) {
    if (const std::string name = node.text("softmax_format", "uint8"); name != "uint8") {
      node.refuse("softmax_format = \"" + name + "\"; it is uint8, for few rows have no codes",
                  "docs/numerics.md N32", "Leave softmax_format out.");
    }
    if (std::isfinite(multiplier_)) return;
    node.refuse("multiplier = " + std::to_string(multiplier_),
                "docs/numerics.md N32: a finite number", "Correct multiplier.");
  }

  void compute(const Context& context) const override {
    const Tensor q = context.input(0), k = context.input(1), v = context.input(2);
    const Tensor mask = context.num_inputs() > 3 ? context.input(3) : Tensor();
    const View views[3] = {q_.of(node_, q), k_.of(node_, k), v_.of(node_, v)};
    const AttentionSizes sizes(node_, views, mask);
    const Tensor y = context.output(0, y_.physical(node_, sizes.output()));
    if (y.count == 0) return;
    const AttentionMask from(sizes, mask);
    const bool is_short = sizes.L * (sizes.heads / Heads(sizes, views[1]).count) < kFewRows;
    is_short || !sizes.fits_codes() ? attend_in_floats(context, sizes, views, from, y_.of(node_, y))
                                    : attend(context, sizes, views, from, y_.of(node_, y));
  }

 private:
  void attend(const Context& context, const AttentionSizes& s, const View (&views)[3],
              const AttentionMask& mask, const View& out) const {
    static thread_local Scratch memory;
    Coded coded(s, views[1], views[2]);
    coded.place(&memory);
    context.parallel(coded.k_heads.count + coded.v_heads.count, [&](int64_t task) {
      if (task < coded.k_heads.count) return coded.fill_keys(s, views[1], task);
      coded.fill_values(s, views[2], task - coded.k_heads.count);
    });
    const Heads q_heads(s, views[0]), y_heads(s, out);
    const RowBlocks blocks(s.L);
    const size_t r = s.lead.size();
    context.parallel(s.heads * blocks.count, [&](int64_t task) {
      const int64_t head = task / blocks.count, first = task % blocks.count * blocks.rows;
      const float* q = views[0].floats() + q_heads.offset_of(head);
      float* y = const_cast<float*>(out.floats()) + y_heads.offset_of(head);
      const Block block{head,
                        first,
                        std::min(blocks.rows, s.L - first),
                        q + first * views[0].steps[r],
                        views[0].steps[r],
                        views[0].steps[r + 1],
                        y + first * out.steps[r],
                        out.steps[r],
                        out.steps[r + 1]};
      attend_rows(s, coded, mask, block);
    });
  }

  // Some rows of a head: where q lies, and y.
  struct Block {
    int64_t head, first, count;
    const float* q;
    int64_t q_row_step, q_column_step;
    float* y;
    int64_t y_row_step, y_column_step;
  };

  void attend_rows(const AttentionSizes& s, const Coded& coded, const AttentionMask& mask,
                   const Block& b) const {
    static thread_local Scratch rows, row_scales, sums, codes, totals, scores;
    const int64_t k_index = coded.k_heads.index_of(b.head), v_index = coded.v_heads.index_of(b.head);
    const PackedHead keys = coded.keys_of(k_index), values = coded.values_of(v_index);
    int8_t* const x = rows.get<int8_t>(b.count * keys.row_stride() + kSpareBytes);
    float* const scales = row_scales.get<float>(b.count);
    quantize_rows(s, b, keys.row_stride(), x, scales);
    int32_t* const found = sums.get<int32_t>(b.count * std::max(keys.outputs(), values.outputs()));
    const int64_t seen = mask.seen(b.head, b.first, b.count, s.S);
    keys.multiply(x, b.count, seen, found);

    int8_t* const p = codes.get<int8_t>(b.count * values.row_stride() + kSpareBytes);
    int32_t* const total = totals.get<int32_t>(b.count);
    softmax_s32_args args{};
    args.corrections = keys.corrections;
    args.num_columns = seen;
    args.column_multipliers = coded.k_scales + k_index * keys.outputs();
    args.mask_step = mask.column_step;
    args.scores = scores.get<float>(keys.outputs());
    const bool is_lost = std::isnan(args.column_multipliers[0]);
    for (int64_t m = 0; m < b.count; ++m) {
      args.sums = found + m * keys.outputs();
      args.multiplier = scales[m] * multiplier_;
      args.mask = mask.row(b.head, b.first + m);
      args.codes = p + m * values.row_stride();
      kernels().softmax_s32(args);
      total[m] = args.total;
      if (is_lost) scales[m] = NAN;
      std::memset(args.codes + seen, -128, static_cast<size_t>(s.S - seen));
      std::memset(args.codes + s.S, 0, static_cast<size_t>(values.row_stride() - s.S));
    }
    values.multiply(p, b.count, s.E, found);
    finish(s, values, coded.v_scales + v_index * values.outputs(), found, total, scales, b);
  }

  void attend_in_floats(const Context& context, const AttentionSizes& s, const View (&views)[3],
                        const AttentionMask& mask, const View& out) const {
    const View &q = views[0], &k = views[1], &v = views[2];
    const Heads q_heads(s, q), k_heads(s, k), v_heads(s, v), y_heads(s, out);
    const size_t r = s.lead.size();
    context.parallel(s.heads, [&](int64_t head) {
      static thread_local Scratch q_copy, k_copy, v_copy, scores, row;
      const FloatRows rows(q.floats() + q_heads.offset_of(head), q.steps[r], q.steps[r + 1], s.L, s.D,
                           &q_copy);
      const FloatRows keys(k.floats() + k_heads.offset_of(head), k.steps[r + 1], k.steps[r], s.S, s.D,
                           &k_copy);
      const FloatRows values(v.floats() + v_heads.offset_of(head), v.steps[r], v.steps[r + 1], s.S,
                             s.E, &v_copy);
      float* y = const_cast<float*>(out.floats()) + y_heads.offset_of(head);
      const int64_t step = s.E == 1 ? 1 : out.steps[r + 1];
      attend_f32_args args{};
      args.k = keys.data;
      args.v = values.data;
      args.k_step = keys.row_step;
      args.v_step = values.row_step;
      args.num_keys = s.S;
      args.depth = s.D;
      args.width = s.E;
      args.multiplier = multiplier_;
      args.mask_step = mask.column_step;
      args.scores = scores.get<float>(s.S + 16);
      for (int64_t m = 0; m < s.L; ++m, y += out.steps[r]) {
        args.q = rows.data + m * rows.row_step;
        args.mask = mask.row(head, m);
        args.y = step == 1 ? y : row.get<float>(s.E);
        kernels().attend_f32(args);
        for (int64_t i = 0; step != 1 && i < s.E; ++i) y[i * step] = args.y[i];
      }
    });
  }

  static void quantize_rows(const AttentionSizes& s, const Block& b, int64_t stride, int8_t* x,
                            float* scales) {
    static thread_local Scratch memory;
    const FloatRows q(b.q, b.q_row_step, b.q_column_step, b.count, s.D, &memory);
    const bool is_whole = q.row_step == s.D;
    const int64_t at_once = is_whole ? b.count : 1;
    for (int64_t m = 0; m < b.count; m += at_once) {
      quantize_rows_f32_s8_args args{q.data + m * q.row_step, at_once, s.D, stride, kLimit, kLimit,
                                     x + m * stride, scales + m};
      kernels().quantize_rows_f32_s8(args);
    }
  }

  static void finish(const AttentionSizes& s, const PackedHead& values, const float* v_scales,
                     const int32_t* sums, const int32_t* totals, const float* q_scales,
                     const Block& b) {
    static thread_local Scratch memory;
    const bool is_side_by_side = b.y_column_step == 1 || s.E == 1;
    float* const row = is_side_by_side ? nullptr : memory.get<float>(s.E);
    scale_s32_f32_args args{};
    args.corrections = values.corrections;
    args.scales = v_scales;
    args.count = s.E;
    float* y = b.y;
    for (int64_t m = 0; m < b.count; ++m, y += b.y_row_step, sums += values.outputs()) {
      args.sums = sums;
      args.multiplier = totals[m] ? static_cast<float>(1 / static_cast<double>(totals[m])) : 0;
      if (std::isnan(q_scales[m])) args.multiplier = NAN;
      args.y = row ? row : y;
      kernels().scale_s32_f32(args);
      for (int64_t i = 0; row && i < s.E; ++i) y[i * b.y_column_step] = row[i];
    }
  }

  const Node node_;
  const Permuted q_, k_, v_, y_;
  const float multiplier_;
};

std::unique_ptr<OpKernel> create(const Node& node) {
  return std::make_unique<QDynamicAttention>(node);
}

}  // namespace

void add_qdynamic_attention(Definitions* out) {
  using namespace ort;
  out->emplace_back("QDynamicAttention", Ports{{kFloat}, {kFloat}, {kFloat}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer_attention);
}

}  // namespace qcompile
