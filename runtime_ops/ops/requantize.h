// SPDX-License-Identifier: Apache-2.0
// The attribute `requantize`, and multipliers that are attributes (docs/ops.md).
#pragma once

#include "op.h"

namespace qcompile {

// Whether the node rescales by dyadic numbers (N12) instead of floats (N11).
bool reads_dyadic(const Node& node);
// The multiplier of that name; refuses one that no dyadic number stands for, where it must.
float read_multiplier(const Node& node, const char* name);

}  // namespace qcompile
