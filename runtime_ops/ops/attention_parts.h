// SPDX-License-Identifier: Apache-2.0
// What both attentions share: sizes of q, k and v, heads, the mask, and a product with codes that
// were made at run time.
#pragma once

#include "permuted.h"

namespace qcompile {

// q [..., L, D], k [..., D, S], v [..., S, E]. What leads of one operand divides what leads of the
// others: its heads are repeated, each as often in a row as it takes.
struct AttentionSizes {
  std::vector<int64_t> lead;
  int64_t L, D, S, E, heads;

  // Refuses shapes that do not agree, and a mask that does not broadcast to [lead, L, S].
  AttentionSizes(const Node& node, const View (&operands)[3], const Tensor& mask);
  bool fits_codes() const;  // whether no sum of products of codes leaves int32
  std::vector<int64_t> output() const;

 private:
  void check_mask(const Node& node, const Tensor& mask) const;
};

// Where the heads of one operand lie: `steps` from head to head of each axis that leads.
struct Heads {
  std::vector<int64_t> lead, own, steps;
  int64_t count;  // of its own

  Heads(const AttentionSizes& sizes, const View& view);
  int64_t offset_of(int64_t head) const { return dot(head, steps); }
  // Which of its own heads.
  int64_t index_of(int64_t head) const { return dot(head, own_steps); }
  // Of one of its own.
  int64_t own_offset(int64_t index) const;

 private:
  int64_t dot(int64_t head, const std::vector<int64_t>& each) const;
  std::vector<int64_t> own_steps;
};

// Where the mask of a row lies.
struct AttentionMask {
  const float* data = nullptr;
  std::vector<int64_t> lead, lead_steps;
  int64_t row_step = 0, column_step = 0;

  AttentionMask(const AttentionSizes& sizes, const Tensor& mask);
  // Of a row of a head; null where there is no mask.
  const float* row(int64_t head, int64_t m) const;
  // Columns up to the last that some of these rows sees, at least 1: those behind it have codes 0.
  int64_t seen(int64_t head, int64_t first, int64_t count, int64_t S) const;
};

// A product with codes that the packing of one head made.
struct PackedHead {
  Weight weight;
  Run run;
  int64_t end = 1;
  int32_t* corrections;  // [whole panels]: what the zero point of the rows adds to each sum

  // N outputs of K columns; the sums of rows start at -zero_point * sum(x).
  PackedHead(int64_t N, int64_t K, int32_t zero_point);
  int64_t outputs() const { return ceil_div(weight.N, kPanel) * kPanel; }
  int64_t code_bytes() const { return ceil_div(n16k4_bytes(weight), 64) * 64; }
  int64_t bytes() const { return code_bytes() + outputs() * 4; }
  int64_t row_stride() const { return ceil_div(weight.K, kGroup) * kGroup; }
  // The place of one head in the memory of all.
  PackedHead at(uint8_t* memory) const;
  // sums [num_rows, outputs()] of rows that are row_stride() bytes apart; of the panels that have
  // the first `num_outputs`.
  void multiply(const int8_t* rows, int64_t num_rows, int64_t num_outputs, int32_t* sums) const;
  // Packs x[n * n_step + k * k_step] and finds factor * sum_k(x[n, k] - zero_point).
  void fill(const uint8_t* x, int64_t n_step, int64_t k_step, int32_t factor);
};

constexpr int64_t kSpareBytes = 64;  // that kernels may read beyond a row

// L rows in blocks of whole register blocks, so that a task shares one unpacking of a panel.
struct RowBlocks {
  int64_t rows, count;
  explicit RowBlocks(int64_t L);
};

// The shape of y, of both.
void infer_attention(const ShapeContext& context);

}  // namespace qcompile
