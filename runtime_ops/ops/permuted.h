// SPDX-License-Identifier: Apache-2.0
// Tensors that an op reads or writes with strides: attributes NAME_perm, NAME_index, and of codes
// NAME_zero_point.
#pragma once

#include "op.h"

namespace qcompile {

// What the op means: sizes, and the elements from one index to the next.
struct View {
  const uint8_t* data;
  std::vector<int64_t> sizes, steps;

  const float* floats() const { return reinterpret_cast<const float*>(data); }

  // Of the axes before the last two.
  std::vector<int64_t> lead_steps() const { return {steps.begin(), steps.end() - 2}; }
};

enum class Elements { kCodes, kFloats };

// Axis i of the meaning is axis perm[i] of the tensor; the tensor's other axes, in their order, stay
// at `index`.
class Permuted {
 public:
  Permuted(const Node& node, const std::string& name, Elements elements = Elements::kCodes);

  int32_t zero_point() const { return zero_point_; }
  // Refuses a tensor of another rank, and an index beyond an axis. An axis of size 1 has step 0: it
  // may broadcast.
  View of(const Node& node, const Tensor& tensor) const;
  // The dims of the tensor that means these; refuses another rank, and an index.
  std::vector<int64_t> physical(const Node& node, const std::vector<int64_t>& dims) const;

 private:
  void check_rank(const Node& node, size_t rank) const;
  std::string name_;
  int32_t zero_point_ = 0;
  std::vector<int64_t> perm_;   // empty: as they lie
  std::vector<int64_t> others_, index_;
};

}  // namespace qcompile
