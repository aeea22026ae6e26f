// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace qcompile {

// Asks the system to keep these bytes in pages of 2 MiB: one row of activations reads a weight once
// from its first byte to its last, and with pages of 4 KiB waits for their addresses (15 to 20 % of
// its time, docs/kernels.md). A hint: what cannot be done, as for a mapped file, is left as it is.
void prefer_huge_pages(const void* data, int64_t bytes);

}  // namespace qcompile
