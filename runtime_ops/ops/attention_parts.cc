// SPDX-License-Identifier: Apache-2.0
#include "attention_parts.h"

#include <algorithm>
#include <cstring>

namespace qcompile {
namespace {

constexpr int64_t kLongest = int64_t{1} << 15;  // K · 255 · 255 < 2^31
constexpr int64_t kRowsPerTask = 64;            // share one unpacking of a panel to words
constexpr int64_t kRowBlock = 12;               // whole register blocks of the products

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

}  // namespace

AttentionSizes::AttentionSizes(const Node& node, const View (&operands)[3], const Tensor& mask) {
  const View &q = operands[0], &k = operands[1], &v = operands[2];
  const size_t rank = q.sizes.size();
  bool fits = rank >= 2 && k.sizes.size() == rank && v.sizes.size() == rank;
  for (size_t i = 0; fits && i + 2 < rank; ++i) {
    const int64_t size = std::max({q.sizes[i], k.sizes[i], v.sizes[i]});
    const bool is_empty = !q.sizes[i] || !k.sizes[i] || !v.sizes[i];
    lead.push_back(is_empty ? 0 : size);
    for (const View* each : {&q, &k, &v}) {
      fits &= is_empty ? each->sizes[i] <= 1 : size % each->sizes[i] == 0;
    }
  }
  if (fits) {
    L = q.sizes[rank - 2], D = q.sizes[rank - 1];
    S = k.sizes[rank - 1], E = v.sizes[rank - 1];
    fits = k.sizes[rank - 2] == D && v.sizes[rank - 2] == S;
  }
  if (!fits) {
    node.refuse("q, k and v are " + to_string(q.sizes) + ", " + to_string(k.sizes) + " and " +
                    to_string(v.sizes),
                "docs/ops.md: q [..., L, D], k [..., D, S], v [..., S, E]", "Correct the graph.");
  }
  heads = count_elements(lead);
  check_mask(node, mask);
  if (heads && L && E && (S == 0 || D == 0)) {
    node.refuse("q is " + to_string(q.sizes) + ", v is " + to_string(v.sizes),
                "docs/numerics.md N30: a sum of at least one term", "Correct the graph.");
  }
}

bool AttentionSizes::fits_codes() const { return D <= kLongest && S <= kLongest; }

std::vector<int64_t> AttentionSizes::output() const {
  std::vector<int64_t> dims = lead;
  dims.insert(dims.end(), {L, E});
  return dims;
}

void AttentionSizes::check_mask(const Node& node, const Tensor& mask) const {
  if (mask.type == ort::kUndefined) return;
  std::vector<int64_t> whole = lead;
  whole.insert(whole.end(), {L, S});
  bool fits = mask.dims.size() <= whole.size();
  for (size_t i = 0; fits && i < mask.dims.size(); ++i) {
    const int64_t size = mask.dims[mask.dims.size() - 1 - i];
    fits = size == 1 || size == whole[whole.size() - 1 - i];
  }
  if (fits) return;
  node.refuse("mask is " + to_string(mask.dims) + ", the scores are " + to_string(whole),
              "docs/ops.md: mask broadcasts to [..., L, S]", "Correct the graph.");
}

Heads::Heads(const AttentionSizes& sizes, const View& view)
    : lead(sizes.lead), own(view.sizes.begin(), view.sizes.end() - 2), steps(view.lead_steps()),
      count(1), own_steps(own.size()) {
  for (size_t i = own.size(); i-- > 0; count *= own[i]) own_steps[i] = count;
}

int64_t Heads::dot(int64_t head, const std::vector<int64_t>& each) const {
  int64_t sum = 0;
  for (size_t i = lead.size(); i-- > 0; head /= lead[i]) {
    sum += head % lead[i] * own[i] / lead[i] * each[i];
  }
  return sum;
}

int64_t Heads::own_offset(int64_t index) const {
  int64_t offset = 0;
  for (size_t i = own.size(); i-- > 0; index /= own[i]) offset += index % own[i] * steps[i];
  return offset;
}

AttentionMask::AttentionMask(const AttentionSizes& sizes, const Tensor& mask) : lead(sizes.lead) {
  if (mask.type == ort::kUndefined) return;
  data = mask.as<float>();
  const size_t rank = lead.size() + 2;
  std::vector<int64_t> steps(rank, 0);
  int64_t step = 1;
  for (size_t i = mask.dims.size(); i-- > 0; step *= mask.dims[i]) {
    if (mask.dims[i] != 1) steps[rank - mask.dims.size() + i] = step;
  }
  column_step = steps[rank - 1];
  row_step = steps[rank - 2];
  lead_steps.assign(steps.begin(), steps.end() - 2);
}

const float* AttentionMask::row(int64_t head, int64_t m) const {
  if (!data) return nullptr;
  const float* found = data + m * row_step;
  for (size_t i = lead.size(); i-- > 0; head /= lead[i]) found += head % lead[i] * lead_steps[i];
  return found;
}

int64_t AttentionMask::seen(int64_t head, int64_t first, int64_t count, int64_t S) const {
  if (!data || column_step == 0) return S;
  constexpr int64_t kAtOnce = 16;  // compared without a branch
  constexpr uint32_t kHidden = 0xff800000;  // the bits of -infinity
  int64_t most = 1;
  for (int64_t m = count; m-- > 0 && most < S;) {  // causal: the last row sees most
    const uint32_t* mask = reinterpret_cast<const uint32_t*>(row(head, first + m));
    int64_t end = S;
    for (; end - kAtOnce >= most; end -= kAtOnce) {
      uint32_t apart = 0;
      for (int64_t i = 0; i < kAtOnce; ++i) apart |= mask[end - kAtOnce + i] ^ kHidden;
      if (apart) break;
    }
    while (end > most && mask[end - 1] == kHidden) --end;
    most = end;
  }
  return most;
}

PackedHead::PackedHead(int64_t N, int64_t K, int32_t zero_point) {
  weight.N = N;
  weight.K = weight.block_size = K;
  weight.num_blocks = 1;
  weight.bits = 8;
  weight.offset = zero_point;
  weight.max_byte = 255;
  run = {0, ceil_div(K, kGroup)};
}

PackedHead PackedHead::at(uint8_t* memory) const {
  PackedHead head = *this;
  head.weight.data = memory;
  head.corrections = reinterpret_cast<int32_t*>(memory + code_bytes());
  return head;
}

void PackedHead::multiply(const int8_t* rows, int64_t num_rows, int64_t num_outputs,
                          int32_t* sums) const {
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
  args.scratch = scratch.get<uint8_t>(n16k4_scratch_bytes(weight));
  args.y_stride = outputs();
  for (args.panel = 0; args.panel < ceil_div(num_outputs, kPanel); ++args.panel) {
    args.y = sums + args.panel * kPanel;
    kernels().matmul_s8_n16k4(args);
  }
}

// A row of ones gives the sums.
void PackedHead::fill(const uint8_t* x, int64_t n_step, int64_t k_step, int32_t factor) {
  static thread_local Scratch memory;
  pack_u8_n16k4_args args{x, n_step, k_step, weight.N, weight.K,
                          static_cast<uint8_t>(weight.offset), const_cast<uint8_t*>(weight.data)};
  kernels().pack_u8_n16k4(args);
  if (factor == 0) {
    std::memset(corrections, 0, static_cast<size_t>(outputs()) * 4);
    return;
  }
  int8_t* ones = memory.get<int8_t>(row_stride() + kSpareBytes);
  std::memset(ones, 0, static_cast<size_t>(row_stride() + kSpareBytes));
  std::memset(ones, 1, static_cast<size_t>(weight.K));
  multiply(ones, 1, weight.N, corrections);
  for (int64_t n = 0; n < outputs(); ++n) corrections[n] = n < weight.N ? corrections[n] * factor : 0;
}

RowBlocks::RowBlocks(int64_t L)
    : rows(ceil_div(ceil_div(L, ceil_div(L, kRowsPerTask)), kRowBlock) * kRowBlock),
      count(ceil_div(L, rows)) {}

void infer_attention(const ShapeContext& context) {
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
      if (y[i].size == 1 || (y[i].size > 1 && y[i].size < dims[other][i].size)) y[i] = dims[other][i];
    }
  }
  y.back() = dims[2].back();
  if (permuted(context, "y_perm", true, &y)) context.set_output(0, type, y);
}

}  // namespace qcompile
