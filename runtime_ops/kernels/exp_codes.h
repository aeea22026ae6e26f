// SPDX-License-Identifier: Apache-2.0
// The constants of N30 and N32, as qcompile/numerics/attention.py has them.
#pragma once

#include <limits>

namespace qcompile {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kPower[4] = {0.693124175f, 0.240240991f, 0.055906426f, 0.009582853f};
constexpr float kLowestPower = -15.0f;
// Of floats: 2^-120, which less kLeastExp is below 0.
constexpr float kLeastPower = -120.0f, kLeastExp = 0x1p-119f;
constexpr float kLargestScore = 3.402823466e38f;
constexpr float kNoScore = -std::numeric_limits<float>::infinity();

}  // namespace
}  // namespace qcompile
