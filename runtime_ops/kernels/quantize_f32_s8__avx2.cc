// SPDX-License-Identifier: Apache-2.0
#define QC_ISA_NAME(kernel) kernel##__avx2
#include "quantize_f32_s8.h"
