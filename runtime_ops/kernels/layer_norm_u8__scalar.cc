// SPDX-License-Identifier: Apache-2.0
#define QC_ISA_NAME(kernel) kernel##__scalar
#include "layer_norm_u8.h"
