// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

namespace qcompile {

void lut_u8__scalar(lut_u8_args& a) {
  for (int64_t i = 0; i < a.count; ++i) a.y[i] = a.table[a.x[i]];
}

}  // namespace qcompile
