// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

namespace qcompile {

void rowsum_s8__scalar(rowsum_s8_args& a) {
  for (int64_t m = 0; m < a.num_rows; ++m) {
    int64_t run = 0;
    for (int64_t block = 0; block < a.num_blocks; ++block) {
      int32_t sum = 0;
      for (; run < a.run_ends[block]; ++run) {
        const int8_t* x = a.x_rows[m] + a.runs[run].x_offset;
        for (int64_t i = 0; i < a.runs[run].num_groups * kGroup; ++i) sum += x[i];
      }
      a.sums[m * a.num_blocks + block] = sum;
    }
  }
}

}  // namespace qcompile
