// SPDX-License-Identifier: Apache-2.0
// The sums of a table of two planes of bytes, or as 256 high + low, and what becomes of them.
#pragma once

#include "matmul_s8_panel.h"

namespace qcompile {
namespace {

// A panel whose sums of two planes become one number before it is finished.
struct TablePanel {
  Panel panel;
  alignas(64) int32_t high_correction[kPanel] = {}, low_correction[kPanel] = {};

  explicit TablePanel(const matmul_s8_n16k4_args& a) : panel(a) {
    if (!panel.weight->high_table || a.epilogue.output == Output::kFloat) return;
    const Epilogue& e = a.epilogue;
    for (int64_t n = 0; e.output != Output::kSum && n < panel.outputs; ++n) {
      const int64_t c = e.correction[n] + (e.bias_codes ? e.bias_codes[n] : 0);
      high_correction[n] = static_cast<int32_t>(c >> 8);
      low_correction[n] = static_cast<int32_t>(c & 255);
    }
    std::memset(panel.operands.correction, 0, sizeof panel.operands.correction);
    std::memset(panel.operands.bias_codes, 0, sizeof panel.operands.bias_codes);
    panel.may_saturate = panel.fits_ints = false;
  }

  QC_INLINE Ints start_high(int32_t x_sum) const {
    return set_ints((panel.dot_offset - panel.weight->high_offset) * x_sum);
  }
  // 256 high + low. The upper part of low goes to high first: with the rest in 0 ... 255 nothing
  // cancels, and the float has two roundings.
  static QC_INLINE Floats as_float(Ints high, Ints low) {
    const Ints upper = add(high, shift_right_signed<8>(low));
    const Floats rest = to_floats(and_ints(low, set_ints(255)));
    return fmadd(set_floats(256), to_floats(upper), rest);
  }
  // 256 high + low, the correction and the bias, saturated to int32 (N11).
  QC_INLINE Ints total(Ints high, Ints low, int n) const {
    const Ints below = add(low, load_ints(low_correction + n));
    const Ints upper = add(add(high, load_ints(high_correction + n)), shift_right_signed<8>(below));
    const Ints kept = max(set_ints(-(1 << 23)), min(set_ints((1 << 23) - 1), upper));
    // What is cut off makes the rest the least or the greatest byte.
    const Ints cut = max(set_ints(-1), min(set_ints(1), sub(upper, kept)));
    const Ints rest = add(and_ints(below, set_ints(255)), shift_left<8>(cut));
    return add(shift_left<8>(kept), max(set_ints(0), min(set_ints(255), rest)));
  }
};

}  // namespace
}  // namespace qcompile
