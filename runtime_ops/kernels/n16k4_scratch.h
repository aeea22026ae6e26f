// SPDX-License-Identifier: Apache-2.0
// The scratch memory of integer products of n16k4.
#pragma once

#include "weight.h"

namespace qcompile {

// A panel as bytes.
inline int64_t n16k4_unpacked_bytes(const Weight& w) {
  return ((w.num_blocks - 1) * w.padded_columns_of(0) + w.padded_columns_of(w.num_blocks - 1)) *
         kPanel;
}
constexpr int kMaxWordRows = 8;
// matmul_s8_crossed.h: columns of a slice, rows whose sums are held meanwhile, and the entries of a
// table that leave room for a byte beside them in 16 bits.
constexpr int64_t kCrossedColumns = 512, kCrossedChunk = 192;
constexpr int32_t kCrossedMost = 32767 - 128;
constexpr int64_t kCrossedScratchBytes =
    kPanel * (2 * kCrossedColumns + 4 * (kCrossedColumns / kGroup + 3 * kCrossedChunk));
// That, or a panel and some rows as words.
inline int64_t n16k4_scratch_bytes(const Weight& w) {
  const int64_t bytes = n16k4_unpacked_bytes(w);
  if (w.high_table) return 2 * bytes > kCrossedScratchBytes ? 2 * bytes : kCrossedScratchBytes;
  return is_wide(w) ? 2 * (bytes + kMaxWordRows * (w.K + kGroup)) : bytes;
}

}  // namespace qcompile
