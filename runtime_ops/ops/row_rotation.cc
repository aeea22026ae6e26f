// SPDX-License-Identifier: Apache-2.0
#include "row_rotation.h"

namespace qcompile {
namespace {

// Word `index` of the random bits of a seed: SplitMix64 (Steele, Lea, Flood 2014, figure 13).
uint64_t random_word(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

RowRotation::RowRotation(const Node& node, int64_t K)
    : K_(K), block_(node.integer_between("hadamard", 0, INT32_MAX, 0)) {
  if (block_ == 0) return;
  if (block_ < 2 || block_ > K || (block_ & (block_ - 1))) {
    node.refuse("hadamard = " + std::to_string(block_) + " with K = " + std::to_string(K),
                "docs/numerics.md N42: a power of two, 2 ... K",
                "Pack the model again with this version of qcompile.");
  }
  const auto seed = static_cast<uint64_t>(node.integer_between("hadamard_seed", 0, INT64_MAX));
  uint64_t word = 0;
  const int64_t count = K % block_ ? K + block_ : K;
  signs_.reserve(static_cast<size_t>(count));
  for (int64_t k = 0; k < count; ++k) {
    if (k % 64 == 0) word = random_word(seed, static_cast<uint64_t>(k / 64));
    signs_.push_back(word >> (k % 64) & 1 ? -1.0f : 1.0f);
  }
}

void RowRotation::rotate(const float* x, int64_t rows, float* y, int64_t stride) const {
  rotate_rows_f32_args args{x, rows, K_, block_, signs_.data(), y, stride};
  kernels().rotate_rows_f32(args);
}

}  // namespace qcompile
