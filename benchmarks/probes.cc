// SPDX-License-Identifier: Apache-2.0
// Limits of the machine: bytes read from memory, and products of bytes in registers.
#include <immintrin.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr int kSums = 8;  // enough to hide the latency of one addition

// `keep` has the compiler believe that the value changes, so that no product leaves the loop.
#define KEEP(v) asm volatile("" : "+x"(v))

void read_part(const uint8_t* data, int64_t bytes, int64_t* sum) {
  __m256i sums[kSums] = {};
  for (int64_t i = 0; i + 32 * kSums <= bytes; i += 32 * kSums) {
    for (int j = 0; j < kSums; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(data + i + 32 * j);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(at));
    }
  }
  for (int j = 1; j < kSums; ++j) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
  *sum = _mm256_extract_epi64(sums[0], 0);
}

#if defined(__AVX512VNNI__)
void multiply(int64_t steps, int, int64_t* sum) {  // 64 products an instruction
  __m512i sums[16] = {}, x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
    for (int j = 0; j < 16; ++j) {
      asm volatile("vpdpbusd %2, %1, %0" : "+v"(sums[j]) : "v"(x), "v"(w));
    }
  }
  for (int j = 1; j < 16; ++j) sums[0] = _mm512_add_epi32(sums[0], sums[j]);
  *sum = _mm512_reduce_add_epi32(sums[0]);
}
constexpr int64_t kProducts = 16 * 64, kWideProducts = kProducts;
#elif defined(__AVXVNNI__)
void multiply(int64_t steps, int, int64_t* sum) {
  __m256i sums[12] = {}, x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
    for (int j = 0; j < 12; ++j) {
      asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums[j]) : "x"(x), "x"(w));
    }
  }
  for (int j = 1; j < 12; ++j) sums[0] = _mm256_add_epi32(sums[0], sums[j]);
  *sum = _mm256_extract_epi32(sums[0], 0);
}
constexpr int64_t kProducts = 12 * 32, kWideProducts = kProducts;
#else
// AVX2: words where 8 bits must be exact (vpmaddwd), bytes with sums in 16 bits for up to 6.
void multiply(int64_t steps, int is_wide, int64_t* sum) {
  __m256i sums[kSums] = {}, x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(5);
  for (int64_t i = 0; i < steps; ++i) {
    for (int j = 0; j < kSums; ++j) {
      KEEP(x);
      sums[j] = is_wide ? _mm256_add_epi32(sums[j], _mm256_madd_epi16(x, w))
                        : _mm256_add_epi16(sums[j], _mm256_maddubs_epi16(x, w));
    }
  }
  for (int j = 1; j < kSums; ++j) sums[0] = _mm256_add_epi32(sums[0], sums[j]);
  *sum = _mm256_extract_epi32(sums[0], 0);
}
constexpr int64_t kProducts = kSums * 32, kWideProducts = kSums * 16;
#endif

template <typename Work>
int64_t on_threads(int threads, Work work) {
  std::vector<int64_t> sums(threads);
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work, t, &sums[t]);
  work(0, &sums[0]);
  for (auto& other : others) other.join();
  int64_t sum = 0;
  for (int64_t each : sums) sum ^= each;
  return sum;
}

}  // namespace

extern "C" {

int64_t read_bytes(const uint8_t* data, int64_t bytes, int threads) {
  const int64_t part = bytes / threads;
  return on_threads(threads, [=](int t, int64_t* s) { read_part(data + t * part, part, s); });
}

int64_t products_a_step(int is_wide) { return is_wide ? kWideProducts : kProducts; }

int64_t multiply_bytes(int64_t steps, int is_wide, int threads) {
  return on_threads(threads, [=](int, int64_t* s) { multiply(steps, is_wide, s); });
}
}
