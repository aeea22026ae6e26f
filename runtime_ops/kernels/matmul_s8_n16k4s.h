// SPDX-License-Identifier: Apache-2.0
// Signed 8-bit rows times a panel of sparse codes, N10 ... N17. QC_ISA_NAME(kernel) is kernel__<isa>.
#include "matmul_s8_run.h"

namespace qcompile {

void QC_ISA_NAME(matmul_s8_n16k4s)(matmul_s8_n16k4_args& a) {
  const Panel p(a);
  const bool is_table = a.weight->byte_table != nullptr;
  if (code_bits(a.weight->bits) == 3) {
    return is_table ? run_panel<kSparse + 3, true>(p) : run_panel<kSparse + 3, false>(p);
  }
  is_table ? run_panel<kSparse + 4, true>(p) : run_panel<kSparse + 4, false>(p);
}

}  // namespace qcompile
