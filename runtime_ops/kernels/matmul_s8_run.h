// SPDX-License-Identifier: Apache-2.0
// Signed 8-bit rows times a panel of unsigned codes, N10 ... N17: acc = sum(u * x) started at
// -zero_point * sum(x). A few rows decode the packed stream on the way (fused); more rows unpack
// the panel once, to bytes, or to words where bytes cannot be multiplied exactly.
#pragma once

#include "matmul_s8_fused.h"
#include "matmul_s8_unpacked.h"
#include "matmul_s8_words.h"

namespace qcompile {
namespace {

// kIsWide: bytes above 127, which `dot` multiplies otherwise. Rows without sums (needs_sums) are
// multiplied as words, few as they may be: they are the last of many.
template <int kBits, bool kIsTable, bool kIsWide>
void run_panel_of(const Panel& p) {
  const matmul_s8_n16k4_args& a = *p.args;
  const bool is_float = a.epilogue.output == Output::kFloat;
  if constexpr (code_bits(kBits) <= 4 || !kIsTable) {
    const bool is_fused = a.is_contiguous && a.num_rows <= 2 * kFusedRowsAtOnce && a.x_sums;
    if (is_fused && p.tiles == kPanelTiles) return fused_panel<kBits, kIsTable, kIsWide>(p);
  }
  if constexpr (kIsWide && kHasWords) {
    if (a.num_rows > kFewRows || !a.x_sums) {
      return is_float ? words_panel<kBits, kIsTable, true>(p)
                      : words_panel<kBits, kIsTable, false>(p);
    }
  }
  // Bytes are their own unpacked form; they lie in the stream between the blocks' scales.
  constexpr bool kIsInPlace = kBits == 8 && !kIsTable;
  Unpacked unpacked{p.stream, n16k4_block_bytes(*p.weight, 0, p.tiles)};
  if (!kIsInPlace) {
    unpack_panel<kBits, kIsTable>(p, ByteStore{a.scratch});
    unpacked = {a.scratch, p.weight->padded_columns_of(0) * p.tiles * kTile};
  }
  is_float ? product_panel<kIsWide, true>(p, unpacked) : product_panel<kIsWide, false>(p, unpacked);
}

template <int kBits, bool kIsTable>
void run_panel(const Panel& p) {
  if constexpr (!kHasDot && kIsTable) {
    return is_wide(*p.weight) ? run_panel_of<kBits, true, true>(p)
                              : run_panel_of<kBits, true, false>(p);
  }
  run_panel_of<kBits, kIsTable, !kHasDot && kBits == 8>(p);
}

}  // namespace
}  // namespace qcompile
