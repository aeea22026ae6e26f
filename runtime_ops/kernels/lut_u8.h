// SPDX-License-Identifier: Apache-2.0
// 64 lookups a step: 16 tables of 16 bytes, each for the codes whose upper half names it.
// QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {

void QC_ISA_NAME(lut_u8)(lut_u8_args& a) {
  Bytes tables[16];
  for (int i = 0; i < 16; ++i) tables[i] = repeat16(a.table + 16 * i);
  const int64_t whole = a.count / 64 * 64;
  for (int64_t i = 0; i < whole; i += 64) {
    const Bytes codes = load_bytes(a.x + i);
    Bytes found = lookup16_where(tables[0], codes, 0);
    for (int high = 1; high < 16; ++high) {
      found = bit_or(found, lookup16_where(tables[high], codes, high));
    }
    store_bytes(a.y + i, found);
  }
  for (int64_t i = whole; i < a.count; ++i) a.y[i] = a.table[a.x[i]];
}

}  // namespace qcompile
