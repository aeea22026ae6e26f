// SPDX-License-Identifier: Apache-2.0
#include "requantize.h"

#include <cmath>

namespace qcompile {

bool reads_dyadic(const Node& node) {
  const std::string how = node.text("requantize", "f32");
  if (how != "f32" && how != "dyadic") {
    node.refuse("requantize = \"" + how + "\"; it is f32 or dyadic", "docs/ops.md", "Correct it.");
  }
  return how == "dyadic";
}

float read_multiplier(const Node& node, const char* name) {
  const float value = node.number(name);
  constexpr float kLimit = 536870912.0f;  // 2^29: e of N12 is at least 1
  if (reads_dyadic(node) && !(std::fabs(value) < kLimit)) {
    node.refuse(std::string(name) + " = " + std::to_string(value),
                "docs/numerics.md N12: below 2^29", std::string("Correct ") + name + ".");
  }
  return value;
}

}  // namespace qcompile
