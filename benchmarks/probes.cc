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

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// Twelve sums hide the latency of a product where two start in a cycle. Variables of their own and
// one asm: gcc keeps the elements of an array in memory, which took twice the time.
#ifdef __AVX512VNNI__
using Vector = __m512i;
#define DOT(sum) "vpdpbusd %[w], %[x], %[" #sum "]\n\t"
constexpr int64_t kBytes = 64;
inline Vector repeated(char v) { return _mm512_set1_epi8(v); }
inline int64_t first(Vector v) { return _mm512_reduce_add_epi32(v); }
#else
using Vector = __m256i;
#define DOT(sum) "%{vex%} vpdpbusd %[w], %[x], %[" #sum "]\n\t"
constexpr int64_t kBytes = 32;
inline Vector repeated(char v) { return _mm256_set1_epi8(v); }
inline int64_t first(Vector v) { return _mm256_extract_epi32(v, 0); }
#endif
void multiply(int64_t steps, int, int64_t* sum) {
  const Vector x = repeated(3), w = repeated(5);
  Vector a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{}, i{}, j{}, k{}, l{};
  for (int64_t step = 0; step < steps; ++step) {
    asm volatile(DOT(a) DOT(b) DOT(c) DOT(d) DOT(e) DOT(f)
                 : [a] "+v"(a), [b] "+v"(b), [c] "+v"(c), [d] "+v"(d), [e] "+v"(e), [f] "+v"(f)
                 : [x] "v"(x), [w] "v"(w));
    asm volatile(DOT(g) DOT(h) DOT(i) DOT(j) DOT(k) DOT(l)
                 : [g] "+v"(g), [h] "+v"(h), [i] "+v"(i), [j] "+v"(j), [k] "+v"(k), [l] "+v"(l)
                 : [x] "v"(x), [w] "v"(w));
  }
  *sum = first(a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ i ^ j ^ k ^ l);
}
constexpr int64_t kProducts = 12 * kBytes, kWideProducts = kProducts;
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
