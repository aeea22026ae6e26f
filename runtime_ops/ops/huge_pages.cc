// SPDX-License-Identifier: Apache-2.0
#include "huge_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace qcompile {
namespace {

constexpr int64_t kLeastBytes = 1 << 20;  // a smaller one may stay in the second cache

}  // namespace

void prefer_huge_pages(const void* data, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1, which older headers lack
  if (bytes < kLeastBytes) return;
  // Whole pages around: as a rule the neighbours are weights, too. Both calls change no content,
  // leave out what is not mapped, and may fail.
  const uintptr_t start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = start / kPage * kPage;
  const uintptr_t last = (start + static_cast<uintptr_t>(bytes) + kPage - 1) / kPage * kPage;
  void* const pages = reinterpret_cast<void*>(first);
  madvise(pages, last - first, MADV_HUGEPAGE);
  madvise(pages, last - first, kCollapse);  // now; without it the kernel does so when it has time
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace qcompile
