// SPDX-License-Identifier: Apache-2.0
// The rotation of the rows of floats before they are quantized or multiplied (N42).
#pragma once

#include <vector>

#include "op.h"

namespace qcompile {

class RowRotation {
 public:
  // Reads the attributes hadamard (the block; 0 or absent: none) and hadamard_seed.
  RowRotation(const Node& node, int64_t K);

  bool is_on() const { return block_ > 0; }
  // Rows of K floats, from x [rows, K] to y, whose rows are `stride` floats apart.
  void rotate(const float* x, int64_t rows, float* y, int64_t stride) const;

 private:
  int64_t K_, block_;
  std::vector<float> signs_;
};

}  // namespace qcompile
