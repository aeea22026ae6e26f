// SPDX-License-Identifier: Apache-2.0
// The weights that a softmax gives its scores: qcompile/numerics/softmax_formats.py has their meaning.
#pragma once

#include <cstdint>

namespace qcompile {

enum class SoftmaxKind { kUniform, kPowers, kWidePowers, kTwin };

// N30: integers up to 255; N43: powers of two up to `top`, or integers up to `last_fine` and, above
// `edge`, multiples of 2 * half.
struct SoftmaxLevels {
  SoftmaxKind kind = SoftmaxKind::kUniform;
  float top = 255;  // of the largest score
  int32_t last_fine = 0, edge = 0, half = 0;

  bool is_wide() const { return kind == SoftmaxKind::kWidePowers; }
};

}  // namespace qcompile
