// SPDX-License-Identifier: Apache-2.0
// Codes above 7 bits where bytes have no exact product: AVX2's vpmaddubsw saturates. The panel and
// the rows become 16-bit words, whose pairs vpmaddwd sums exactly: |code - zero_point| <= 255 and
// |x| <= 128. With the zero point inside the words no sum of x is needed.
#pragma once

#include "matmul_s8_panel.h"
#include "matmul_s8_unpacked.h"

namespace qcompile {
namespace {

template <int kBits, bool kIsTable, bool kIsFloat>
void words_panel(const Panel& p);

#ifdef QC_HAS_WORDS

// Twelve sums, two vectors of weights, one of x and one product fill the 16 registers.
constexpr int kWordRows = 6, kHalfWordRows = 4;
static_assert(kWordRows <= kMaxWordRows, "they are in the scratch memory");
// Of a group of 4 columns and a tile: columns 0 and 2, then 1 and 3 of 16 outputs.
constexpr int kWordGroupBytes = 128;

// Unpacks a panel to words, [groups][tiles][128] a block.
struct WordStore {
  const Weight* weight;
  uint8_t* out;

  QC_INLINE void operator()(const BlockParts& parts, int tile, int64_t at, Bytes u) const {
    constexpr int32_t kTwice = 0x10001;  // both words of a lane belong to one output
    Ints points = set_ints(weight->offset * kTwice);
    if (weight->has_zero_point) {
      points = mul(widen(parts.zero_points + tile * kTile), set_ints(kTwice));
    }
    store_bytes(out + at * kWordGroupBytes, sub_words(even_words(u), points));
    store_bytes(out + at * kWordGroupBytes + 64, sub_words(odd_words(u), points));
  }
};

// Rows as words, one piece each, `stride` words apart.
inline void store_rows(const matmul_s8_n16k4_args& a, int64_t row, int64_t count, int64_t stride,
                       int16_t* out) {
  const Run* const end = a.runs + a.run_ends[a.weight->num_blocks - 1];
  for (int64_t r = 0; r < count; ++r, out += stride) {
    int16_t* to = out;
    for (const Run* run = a.runs; run != end; ++run) {
      const int8_t* x = a.x_rows[row + r] + run->x_offset;
      int64_t left = run->num_groups;
      for (; left >= 4; left -= 4, x += 16, to += 16) store_words16(to, x);
      for (; left > 0; --left, x += kGroup, to += kGroup) store_words4(to, x);
    }
  }
}

template <int kRows>
QC_INLINE void words_block(const uint8_t* words, int64_t step, int64_t num_groups,
                           const int16_t* x, int64_t stride, Ints (&acc)[kRows][1]) {
  Ints sums[kRows];
  unroll<kRows>(QC_UNROLLED(r) {
    sums[r] = acc[r][0];
    keep(sums[r]);
  });
  for (int64_t g = 0; g < num_groups; ++g, words += step, x += kGroup) {
    unroll<2>(QC_UNROLLED(half) {
      Bytes w = load_bytes(words + 64 * half);
      keep(w);
      unroll<kRows>(QC_UNROLLED(r) {
        sums[r] = dot16(sums[r], w, set_ints(load_int(x + r * stride + 2 * half)));
        if (half == 0) keep(sums[r]);  // else gcc adds both halves first, and is short of registers
      });
    });
  }
  unroll<kRows>(QC_UNROLLED(r) {
    keep(sums[r]);
    acc[r][0] = sums[r];
  });
}

// A panel of words and kRows rows of x from `row`, words that are `stride` apart.
struct WordOperands {
  const uint8_t* panel;
  const int16_t* x;
  int64_t stride;
};

template <int kRows, bool kIsFloat>
void words_rows(const Panel& p, const WordOperands& given, int64_t row, int tile) {
  const Weight& w = *p.weight;
  const int64_t step = p.tiles * kWordGroupBytes, block_bytes = n16k4_block_bytes(w, 0, p.tiles);
  const uint8_t* words = given.panel + tile * kWordGroupBytes;
  Floats floats[kRows][1];
  Ints acc[kRows][1];
  unroll<kRows>(QC_UNROLLED(r) {
    floats[r][0] = set_floats(0);
    acc[r][0] = set_ints(0);
  });
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    if constexpr (kIsFloat) unroll<kRows>(QC_UNROLLED(r) { acc[r][0] = set_ints(0); });
    words_block<kRows>(words, step, ceil_div(w.columns_of(b), kGroup), given.x + b * w.block_size,
                       given.stride, acc);
    words += w.padded_columns_of(b) / kGroup * step;
    if constexpr (kIsFloat) {
      const BlockParts parts(p, p.stream + b * block_bytes, n16k4_block_code_bytes(w, b, p.tiles));
      const Floats scale = load_scales(w, parts.scales + tile * kTile * w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        floats[r][0] = fmadd(scale, to_floats(acc[r][0]), floats[r][0]);
      });
    }
  }
  const int64_t num_rows = p.args->num_rows - row;
  if constexpr (kIsFloat) {
    finish_floats<kRows, 1>(p, row, num_rows, tile, floats);
  } else {
    finish_ints<kRows, 1>(p, row, num_rows, tile, acc);
  }
}

template <int kBits, bool kIsTable, bool kIsFloat>
void words_panel(const Panel& p) {
  const matmul_s8_n16k4_args& a = *p.args;
  unpack_panel<kBits, kIsTable>(p, WordStore{p.weight, a.scratch});
  const int64_t stride = ceil_div(p.weight->K, kGroup) * kGroup;
  auto* x = reinterpret_cast<int16_t*>(a.scratch + 2 * n16k4_unpacked_bytes(*p.weight));
  const WordOperands operands{a.scratch, x, stride};
  for (int64_t row = 0; row < a.num_rows;) {
    const int64_t left = a.num_rows - row;
    const int count = rows_of_block(left, kWordRows, kHalfWordRows);
    store_rows(a, row, left < count ? left : count, stride, x);
    for (int tile = 0; tile < p.tiles; ++tile) {
      if (count == kWordRows) {
        words_rows<kWordRows, kIsFloat>(p, operands, row, tile);
      } else if (count == kHalfWordRows) {
        words_rows<kHalfWordRows, kIsFloat>(p, operands, row, tile);
      } else {
        words_rows<1, kIsFloat>(p, operands, row, tile);
      }
    }
    row += count;
  }
}

#endif

}  // namespace
}  // namespace qcompile
