// SPDX-License-Identifier: Apache-2.0
#define QC_ISA_NAME(kernel) kernel##__avx512vnni
#include "rotate_rows_f32.h"
