// SPDX-License-Identifier: Apache-2.0
// Signed 8-bit rows times a panel of every dense kind of codes, N10 ... N17. QC_ISA_NAME(kernel) is
// kernel__<isa>.
#include "matmul_s8_run.h"

namespace qcompile {

void QC_ISA_NAME(matmul_s8_n16k4)(matmul_s8_n16k4_args& a) {
  const Panel p(a);
  const bool is_table = a.weight->byte_table != nullptr;
  switch (a.weight->bits) {
    case 1: return is_table ? run_panel<1, true>(p) : run_panel<1, false>(p);
    case 2: return is_table ? run_panel<2, true>(p) : run_panel<2, false>(p);
    case 3: return is_table ? run_panel<3, true>(p) : run_panel<3, false>(p);
    case 4: return is_table ? run_panel<4, true>(p) : run_panel<4, false>(p);
    case 5: return is_table ? run_panel<5, true>(p) : run_panel<5, false>(p);
    case 6: return is_table ? run_panel<6, true>(p) : run_panel<6, false>(p);
    case 7: return is_table ? run_panel<7, true>(p) : run_panel<7, false>(p);
    case kTrits: return run_panel<kTrits, false>(p);
    case kQuints: return run_panel<kQuints, false>(p);
    default: return is_table ? run_panel<8, true>(p) : run_panel<8, false>(p);
  }
}

}  // namespace qcompile
