// SPDX-License-Identifier: Apache-2.0
// A few rows times a panel, decoded on the way: every byte of the weight is read once.
#pragma once

#include "matmul_s8_panel.h"

namespace qcompile {
namespace {

// Chunks of all tiles, decoded in registers: sum(row, tile, group, codes, x) of each group. Both
// pointers go on behind them.
template <int kBits, bool kIsTable, int kRows, int kTiles, class Sum>
QC_INLINE void fused_chunks(const uint8_t*& codes, int64_t num_chunks, Bytes table,
                            const int8_t* const (&x)[kRows], int64_t& column, const Sum& sum) {
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  for (int64_t c = 0; c < num_chunks; ++c, column += kChunk, codes += kTiles * kBytes) {
    for (int v = 0; v < kTiles * kBytes; v += 64) {
      __builtin_prefetch(codes + v + 4096);
    }
    unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
      Ints xs[kRows];
      unroll<kRows>(QC_UNROLLED(r) { xs[r] = set_ints(load_int(x[r] + column + 4 * g)); });
      unroll<kTiles>(QC_UNROLLED(t) {
        Bytes u = decode_group<kBits, g>(codes + t * kBytes);
        if constexpr (kIsTable) u = lookup16(table, u);
        unroll<kRows>(QC_UNROLLED(r) { sum(r, t, g, u, xs[r]); });
      });
    });
  }
}

template <int kRows, int kTiles, class Vector>
QC_INLINE void clear(Vector (&sums)[kRows][kTiles]) {
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) { sums[r][t] = set_ints(0); });
  });
}

template <int kBits, bool kIsTable, bool kIsWide, int kRows, int kTiles>
QC_INLINE void fused_block(const uint8_t* codes, int64_t num_chunks, Bytes table,
                           const int8_t* const (&x)[kRows], int64_t column,
                           Ints (&acc)[kRows][kTiles]) {
  constexpr int kChains = kRows == 1 ? 2 : 1;  // independent sums hide the latency of dot
  Ints other[kRows][kTiles];
  clear(other);
  const auto add_dot = [&](auto r, auto t, auto g, Bytes u, Ints xs)
                           __attribute__((always_inline)) {
    Ints& sum = g % kChains ? other[r][t] : acc[r][t];
    sum = dot<kIsWide>(sum, u, xs);
  };
  fused_chunks<kBits, kIsTable, kRows, kTiles>(codes, num_chunks, table, x, column, add_dot);
  if constexpr (kChains > 1) {
    unroll<kTiles>(QC_UNROLLED(t) { acc[0][t] = add(acc[0][t], other[0][t]); });
  }
}

// Sums of pairs stay in 16 bits over `most` chunks, as in short_block; acc is touched once for them.
template <int kBits, bool kIsTable, int kRows, int kTiles>
void fused_short_block(const uint8_t* codes, int64_t num_chunks, int64_t most, Bytes table,
                       const int8_t* const (&x)[kRows], int64_t column, Ints (&acc)[kRows][kTiles]);
#ifdef QC_HAS_WORDS
template <int kBits, bool kIsTable, int kRows, int kTiles>
QC_INLINE void fused_short_block(const uint8_t* codes, int64_t num_chunks, int64_t most,
                                 Bytes table, const int8_t* const (&x)[kRows], int64_t column,
                                 Ints (&acc)[kRows][kTiles]) {
  while (num_chunks > 0) {
    const int64_t taken = num_chunks < most ? num_chunks : most;
    num_chunks -= taken;
    Bytes sums[kRows][kTiles];
    clear(sums);
    const auto add_pairs = [&](auto r, auto t, auto, Bytes u, Ints xs)
                               __attribute__((always_inline)) {
      sums[r][t] = add_words(sums[r][t], sum_pairs(u, xs));
    };
    fused_chunks<kBits, kIsTable, kRows, kTiles>(codes, taken, table, x, column, add_pairs);
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        acc[r][t] = dot16(acc[r][t], sums[r][t], set_ints(0x10001));
      });
    });
  }
}
#endif

template <int kBits, bool kIsTable, bool kIsWide, int kRows, int kTiles, bool kIsFloat>
void fused_rows(const Panel& p, int64_t row) {
  const Weight& w = *p.weight;
  const int8_t* x[kRows];
  const int32_t* x_sums[kRows];
  take_rows<kRows>(*p.args, row, x, x_sums);
  alignas(16) uint8_t entries[16] = {};
  if (kIsTable) std::memcpy(entries, w.byte_table, size_t{1} << kBits);
  const Bytes table = repeat16(entries);
  Floats floats[kRows][kTiles];
  Ints ints[kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      floats[r][t] = set_floats(0);
      ints[r][t] = set_ints(0);
    });
  });
  const int64_t short_chunks = short_groups(w) / kGroupsOfChunk<kBits>;
  const uint8_t* block = p.stream;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const int64_t num_chunks = w.padded_columns_of(b) / chunk_columns(kBits);
    const BlockParts parts(p, block, kTiles * num_chunks * kTileChunkBytes<kBits>);
    Ints acc[kRows][kTiles];
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) { acc[r][t] = start(p, parts, t, x_sums[r][b]); });
    });
    const int64_t column = b * w.block_size;
    if constexpr (kHasWords && !kIsWide) {
      if (short_chunks > 0) {
        fused_short_block<kBits, kIsTable, kRows, kTiles>(block, num_chunks, short_chunks, table, x,
                                                          column, acc);
      } else {
        fused_block<kBits, kIsTable, kIsWide, kRows, kTiles>(block, num_chunks, table, x, column,
                                                             acc);
      }
    } else {
      fused_block<kBits, kIsTable, kIsWide, kRows, kTiles>(block, num_chunks, table, x, column, acc);
    }
    unroll<kTiles>(QC_UNROLLED(t) {
      Floats scale = set_floats(0);
      if (kIsFloat) scale = load_scales(parts.scales + t * kTile * w.scale_bytes, w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        if constexpr (kIsFloat) {
          floats[r][t] = fmadd(scale, to_floats(acc[r][t]), floats[r][t]);
        } else {
          ints[r][t] = add(ints[r][t], acc[r][t]);
        }
      });
    });
    block = parts.zero_points + (w.has_zero_point ? kTiles * kTile : 0);
  }
  const int64_t num_rows = p.args->num_rows - row;
  if (kIsFloat) {
    finish_floats<kRows, kTiles>(p, row, num_rows, 0, floats);
  } else {
    finish_ints<kRows, kTiles>(p, row, num_rows, 0, ints);
  }
}

// A full panel; a narrower last one is not worth the code and takes the other way.
template <int kBits, bool kIsTable, bool kIsWide>
void fused_panel(const Panel& p) {
  constexpr int kTiles = kPanelTiles, kMany = kFusedRowsAtOnce;
  const bool is_float = p.args->epilogue.output == Output::kFloat;
  for (int64_t row = 0; row < p.args->num_rows;) {
    if (p.args->num_rows - row == 1) {
      is_float ? fused_rows<kBits, kIsTable, kIsWide, 1, kTiles, true>(p, row)
               : fused_rows<kBits, kIsTable, kIsWide, 1, kTiles, false>(p, row);
      row += 1;
    } else {
      is_float ? fused_rows<kBits, kIsTable, kIsWide, kMany, kTiles, true>(p, row)
               : fused_rows<kBits, kIsTable, kIsWide, kMany, kTiles, false>(p, row);
      row += kMany;
    }
  }
}

}  // namespace
}  // namespace qcompile
