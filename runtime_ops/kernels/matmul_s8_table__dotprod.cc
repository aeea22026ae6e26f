// SPDX-License-Identifier: Apache-2.0
#define QC_ISA_NAME(kernel) kernel##__dotprod
#include "matmul_s8_table.h"
