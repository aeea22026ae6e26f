// SPDX-License-Identifier: Apache-2.0
// Half a vector on x86, the same for AVX2 and AVX-512. Included by simd_avx2.h and
// simd_avx512vnni.h alone.
#pragma once

#include <immintrin.h>

namespace qcompile {
namespace {

// The two codes that 16 outputs keep of four columns.
using Half = __m256i;
QC_INLINE Half load_half(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
QC_INLINE Half set_half(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
QC_INLINE Half and_half(Half a, Half b) { return _mm256_and_si256(a, b); }
QC_INLINE Half or_half(Half a, Half b) { return _mm256_or_si256(a, b); }
template <int kBits>
QC_INLINE Half shift_half(Half v) {
  if constexpr (kBits > 0) return _mm256_srli_epi16(v, kBits);
  if constexpr (kBits < 0) return _mm256_slli_epi16(v, -kBits);
  return v;
}

}  // namespace
}  // namespace qcompile
