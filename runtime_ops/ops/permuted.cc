// SPDX-License-Identifier: Apache-2.0
#include "permuted.h"

namespace qcompile {

Permuted::Permuted(const Node& node, const std::string& name, Elements elements) : name_(name) {
  if (elements == Elements::kCodes) {
    zero_point_ = static_cast<int32_t>(node.integer_between((name + "_zero_point").c_str(), 0, 255));
  }
  perm_ = node.integers((name + "_perm").c_str());
  index_ = node.integers((name + "_index").c_str());
  const int64_t rank = static_cast<int64_t>(perm_.size() + index_.size());
  std::vector<bool> seen(static_cast<size_t>(rank), false);
  bool fits = !perm_.empty() || index_.empty();
  for (int64_t axis : perm_) {
    fits = fits && axis >= 0 && axis < rank && !seen[static_cast<size_t>(axis)];
    if (fits) seen[static_cast<size_t>(axis)] = true;
  }
  for (int64_t at : index_) fits &= at >= 0;
  if (!fits) {
    node.refuse(name + "_perm is " + to_string(perm_) + ", " + name + "_index " + to_string(index_),
                "docs/ops.md: some axes in any order, the index of every other one",
                "Correct " + name + "_perm.");
  }
  for (int64_t axis = 0; axis < rank; ++axis) {
    if (!seen[static_cast<size_t>(axis)]) others_.push_back(axis);
  }
}

void Permuted::check_rank(const Node& node, size_t rank) const {
  if (perm_.empty() || perm_.size() + index_.size() == rank) return;
  node.refuse(name_ + " has " + std::to_string(rank) + " dimensions, " + name_ + "_perm is " +
                  to_string(perm_) + ", " + name_ + "_index " + to_string(index_),
              "docs/ops.md: some axes in any order, the index of every other one",
              "Correct " + name_ + "_perm.");
}

View Permuted::of(const Node& node, const Tensor& tensor) const {
  const size_t rank = tensor.dims.size();
  check_rank(node, rank);
  std::vector<int64_t> steps(rank);
  int64_t step = 1;
  for (size_t i = rank; i-- > 0; step *= tensor.dims[i]) steps[i] = tensor.dims[i] == 1 ? 0 : step;
  const int64_t bytes = tensor.type == ort::kFloat ? 4 : 1;
  View view{static_cast<const uint8_t*>(tensor.data), {}, {}};
  for (size_t i = 0; i < others_.size(); ++i) {
    const size_t axis = static_cast<size_t>(others_[i]);
    if (index_[i] >= tensor.dims[axis]) {
      node.refuse(name_ + " is " + to_string(tensor.dims) + ", " + name_ + "_index is " +
                      to_string(index_),
                  "docs/ops.md: an index of its axis", "Correct the graph.");
    }
    if (tensor.count) view.data += index_[i] * steps[axis] * bytes;
  }
  for (size_t i = 0; i < rank - others_.size(); ++i) {
    const size_t axis = perm_.empty() ? i : static_cast<size_t>(perm_[i]);
    view.sizes.push_back(tensor.dims[axis]);
    view.steps.push_back(steps[axis]);
  }
  return view;
}

std::vector<int64_t> Permuted::physical(const Node& node, const std::vector<int64_t>& dims) const {
  check_rank(node, dims.size());
  std::vector<int64_t> out = dims;
  for (size_t i = 0; i < perm_.size(); ++i) out[static_cast<size_t>(perm_[i])] = dims[i];
  return out;
}

}  // namespace qcompile
