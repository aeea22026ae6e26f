// SPDX-License-Identifier: Apache-2.0
// Sums of the bytes of blocks: a dot with ones, 64 bytes a step. QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {

void QC_ISA_NAME(rowsum_s8)(rowsum_s8_args& a) {
  const Bytes ones = set_bytes(1);
  const int64_t num_rows = a.num_rows, num_blocks = a.num_blocks;
  for (int64_t row = 0; row < num_rows; row += 4) {
    const int64_t left = num_rows - row;
    const int8_t* x[4];  // beyond the last row, the last one again
    unroll<4>(QC_UNROLLED(r) { x[r] = a.x_rows[r < left ? row + r : num_rows - 1]; });
    int64_t run = 0;
    for (int64_t b = 0; b < num_blocks; ++b) {
      Ints acc[4] = {set_ints(0), set_ints(0), set_ints(0), set_ints(0)};
      for (const int64_t end = a.run_ends[b]; run < end; ++run) {
        const int64_t bytes = a.runs[run].num_groups * kGroup, whole = bytes / 64 * 64;
        const int64_t at = a.runs[run].x_offset;
        for (int64_t i = 0; i < whole; i += 64) {
          unroll<4>(QC_UNROLLED(r) {
            acc[r] = dot<false>(acc[r], ones, load_bytes(x[r] + at + i));
          });
        }
        if (whole == bytes) continue;
        unroll<4>(QC_UNROLLED(r) {
          acc[r] = dot<false>(acc[r], ones, load_groups(x[r] + at + whole, (bytes - whole) / kGroup));
        });
      }
      const __m128i sums = sum4(acc);
      if (num_blocks == 1 && left >= 4) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(a.sums + row), sums);
        continue;
      }
      alignas(16) int32_t each[4];
      _mm_store_si128(reinterpret_cast<__m128i*>(each), sums);
      for (int r = 0; r < 4 && r < left; ++r) a.sums[(row + r) * num_blocks + b] = each[r];
    }
  }
}

}  // namespace qcompile
