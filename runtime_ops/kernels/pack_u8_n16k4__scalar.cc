// SPDX-License-Identifier: Apache-2.0
// A matrix of bytes that is made at run time, in the order of n16k4: what is beyond its last output
// or column is the zero point, which adds nothing.
#include <cstring>

#include "kernels.h"

namespace qcompile {

namespace {

// 16 outputs that lie side by side, 4 columns: a transposition.
void interleave(const uint8_t* x, int64_t column_step, uint8_t* out) {
  const uint8_t *a = x, *b = x + column_step, *c = b + column_step, *d = c + column_step;
  uint32_t lanes[kTile];
  for (int n = 0; n < kTile; ++n) {
    lanes[n] = uint32_t{a[n]} | uint32_t{b[n]} << 8 | uint32_t{c[n]} << 16 | uint32_t{d[n]} << 24;
  }
  std::memcpy(out, lanes, sizeof lanes);
}

}  // namespace

void pack_u8_n16k4__scalar(pack_u8_n16k4_args& a) {
  uint8_t* out = a.out;
  for (int64_t first = 0; first < a.N; first += kPanel) {
    const int64_t outputs = a.N - first < kPanel ? a.N - first : kPanel;
    for (int64_t k = 0; k < a.K; k += kGroup) {
      const bool is_whole = a.K - k >= kGroup;
      for (int64_t tile = 0; tile < outputs; tile += kTile, out += kGroupBytes) {
        const uint8_t* x = a.x + (first + tile) * a.n_step + k * a.k_step;
        const int64_t count = outputs - tile < kTile ? outputs - tile : kTile;
        if (is_whole && count == kTile && a.n_step == 1) {
          interleave(x, a.k_step, out);
        } else if (is_whole && count == kTile && a.k_step == 1) {
          for (int n = 0; n < kTile; ++n) std::memcpy(out + n * kGroup, x + n * a.n_step, kGroup);
        } else {
          const int64_t columns = is_whole ? kGroup : a.K - k;
          std::memset(out, a.zero_point, kGroupBytes);
          for (int64_t n = 0; n < count; ++n) {
            for (int64_t j = 0; j < columns; ++j) {
              out[n * kGroup + j] = x[n * a.n_step + j * a.k_step];
            }
          }
        }
      }
    }
  }
}

}  // namespace qcompile
