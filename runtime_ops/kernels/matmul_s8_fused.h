// SPDX-License-Identifier: Apache-2.0
// A few rows times a panel, decoded on the way: every byte of the weight is read once.
#pragma once

#include "matmul_s8_panel.h"

namespace qcompile {
namespace {

// Codes as bytes of their own.
template <int kBits, bool kIsTable>
struct Codes {
  Bytes table;
  const Bytes* zeros;  // of every tile
  template <int kGroupIndex, int kTile>
  QC_INLINE Bytes group(const uint8_t* tile) const {
    const Bytes u = decode_group<kBits, kGroupIndex>(tile, zeros[is_sparse(kBits) ? kTile : 0]);
    return kIsTable ? lookup16(table, u) : u;
  }
};

// Chunks of all tiles, decoded in registers: sum(row, tile, group, codes, x) of each group. Both
// pointers go on behind them. One row takes a tile after the other, so that bytes are read in
// their order: what prefetches them in hardware follows no other one (5 bits of tiles side by side
// took half as long again), and needs no help by instructions. Rows share the loads of a group.
template <int kBits, int kRows, int kTiles, class Decode, class Sum>
QC_INLINE void fused_chunks(const uint8_t*& codes, int64_t num_chunks, const Decode& decode,
                            const int8_t* const (&x)[kRows], int64_t& column, const Sum& sum) {
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  constexpr int kTurns = kRows == 1 && kBytes > 64 ? kTiles : 1, kAtOnce = kTiles / kTurns;
  for (int64_t c = 0; c < num_chunks; ++c, column += kChunk, codes += kTiles * kBytes) {
    unroll<kTurns>(QC_UNROLLED(turn) {
      unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
        Ints xs[kRows];
        unroll<kRows>(QC_UNROLLED(r) { xs[r] = set_ints(load_int(x[r] + column + 4 * g)); });
        unroll<kAtOnce>(QC_UNROLLED(i) {
          constexpr std::integral_constant<int, turn * kAtOnce + i> t;
          const Bytes u = decode.template group<g, t>(codes + t * kBytes);
          unroll<kRows>(QC_UNROLLED(r) { sum(r, t, g, u, xs[r]); });
        });
      });
    });
  }
}

template <int kCount, int kTiles, class Vector>
QC_INLINE void clear(Vector (&sums)[kCount][kTiles]) {
  unroll<kCount>(QC_UNROLLED(i) {
    unroll<kTiles>(QC_UNROLLED(t) { sums[i][t] = set_ints(0); });
  });
}

template <int kBits, bool kIsTable, bool kIsWide, int kRows, int kTiles>
QC_INLINE void fused_block(const uint8_t* codes, int64_t num_chunks,
                           const Codes<kBits, kIsTable>& decode, const int8_t* const (&x)[kRows],
                           int64_t column, Ints (&acc)[kRows][kTiles]) {
  constexpr int kChains = kRows == 1 ? 2 : 1;  // independent sums hide the latency of dot
  Ints other[kRows][kTiles];
  clear(other);
  const auto add_dot = [&](auto r, auto t, auto g, Bytes u, Ints xs)
                           __attribute__((always_inline)) {
    Ints& sum = g % kChains ? other[r][t] : acc[r][t];
    sum = dot<kIsWide>(sum, u, xs);
  };
  fused_chunks<kBits, kRows, kTiles>(codes, num_chunks, decode, x, column, add_dot);
  if constexpr (kChains > 1) {
    unroll<kTiles>(QC_UNROLLED(t) { acc[0][t] = add(acc[0][t], other[0][t]); });
  }
}

// Sums of pairs stay in 16 bits over `most` chunks, as in short_block; acc is touched once for them.
template <int kBits, bool kIsTable, int kRows, int kTiles>
void fused_short_block(const uint8_t* codes, int64_t num_chunks, int64_t most,
                       const Codes<kBits, kIsTable>& decode, const int8_t* const (&x)[kRows],
                       int64_t column, Ints (&acc)[kRows][kTiles]);
#ifdef QC_HAS_WORDS
template <int kBits, bool kIsTable, int kRows, int kTiles>
QC_INLINE void fused_short_block(const uint8_t* codes, int64_t num_chunks, int64_t most,
                                 const Codes<kBits, kIsTable>& decode,
                                 const int8_t* const (&x)[kRows], int64_t column,
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
    fused_chunks<kBits, kRows, kTiles>(codes, taken, decode, x, column, add_pairs);
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        acc[r][t] = dot16(acc[r][t], sums[r][t], set_ints(0x10001));
      });
    });
  }
}
#endif

// One row of bits, trits or quints without a table, where registers hold many sums and `dot` takes
// all bytes.
constexpr bool has_row_block(int bits) { return bits == 1 || bits == kTrits || bits == kQuints; }
template <int kBits, int kTiles>
void fused_row_block(const uint8_t* codes, int64_t num_chunks, const int8_t* const (&x)[1],
                     int64_t column, Ints (&acc)[1][kTiles]);
#ifdef QC_HAS_MANY_SUMS
// Bits where they lie in half a byte: one of place p is bit << p, and so is its sum. A shift of sums
// stands for one of every vector; for 2 and 4 bits more sums were slower than shifts.
struct PlacedBits {
  static constexpr int kPlaces = 4;
  template <int kGroupIndex, int>
  QC_INLINE Bytes group(const uint8_t* tile) const {
    const Bytes half = shift_right<kGroupIndex / kPlaces * kPlaces>(load_bytes(tile));
    return bit_and(half, set_bytes(1 << kGroupIndex % kPlaces));
  }
};

template <int kTiles>
QC_INLINE void add_bits(const uint8_t*& codes, int64_t num_chunks, const int8_t* const (&x)[1],
                        int64_t& column, Ints (&acc)[1][kTiles]) {
  constexpr int kPlaces = PlacedBits::kPlaces;
  Ints sums[kPlaces][kTiles];
  clear(sums);
  const auto add_dot = [&](auto, auto t, auto g, Bytes u, Ints xs)
                           __attribute__((always_inline)) {
    sums[g % kPlaces][t] = dot<false>(sums[g % kPlaces][t], u, xs);
  };
  fused_chunks<1, 1, kTiles>(codes, num_chunks, PlacedBits(), x, column, add_dot);
  unroll<kPlaces>(QC_UNROLLED(p) {
    unroll<kTiles>(QC_UNROLLED(t) {
      acc[0][t] = add(acc[0][t], shift_right_signed<p>(sums[p][t]));
    });
  });
}

// What is left of five trits when some are taken off, v = (their fraction of 243) * 256.
struct TritRests {
  template <int kGroupIndex, int>
  QC_INLINE Bytes group(const uint8_t* tile) const {
    return tripled<kGroupIndex>(bit_xor(load_bytes(tile), set_bytes(128)));
  }
};

// 3 * v = 256 * trit + the next v, so the sum of the trits is that of 3 * v less that of the next
// ones, by 256: two products and no comparisons.
template <int kTiles>
QC_INLINE void add_trits(const uint8_t*& codes, int64_t num_chunks, const int8_t* const (&x)[1],
                         int64_t& column, Ints (&acc)[1][kTiles]) {
  Ints sums[2][kTiles];
  clear(sums);
  const auto add_dots = [&](auto, auto t, auto, Bytes v, Ints xs) __attribute__((always_inline)) {
    sums[0][t] = dot<false>(sums[0][t], v, xs);
    sums[1][t] = dot<false>(sums[1][t], tripled<1>(v), xs);
  };
  fused_chunks<kTrits, 1, kTiles>(codes, num_chunks, TritRests(), x, column, add_dots);
  unroll<kTiles>(QC_UNROLLED(t) {
    const Ints triple = add(sums[0][t], add(sums[0][t], sums[0][t]));
    acc[0][t] = add(acc[0][t], shift_right_signed<8>(sub(triple, sums[1][t])));
  });
}

// What is left of a number of quints, v = (their fraction of 125) * 256, as above: 5 * v is 256 *
// quint + the next v.
struct QuintRests {
  template <int kGroupIndex, int>
  QC_INLINE Bytes group(const uint8_t* tile) const {
    const Bytes number = bit_xor(quint_number<kGroupIndex>(tile), set_bytes(128));
    return times_five<kGroupIndex % kQuintsOfNumber>(number);
  }
};

template <int kTiles>
QC_INLINE void add_quints(const uint8_t*& codes, int64_t num_chunks, const int8_t* const (&x)[1],
                          int64_t& column, Ints (&acc)[1][kTiles]) {
  Ints sums[2][kTiles];
  clear(sums);
  const auto add_dots = [&](auto, auto t, auto, Bytes v, Ints xs) __attribute__((always_inline)) {
    sums[0][t] = dot<false>(sums[0][t], v, xs);
    sums[1][t] = dot<false>(sums[1][t], times_five<1>(v), xs);
  };
  fused_chunks<kQuints, 1, kTiles>(codes, num_chunks, QuintRests(), x, column, add_dots);
  unroll<kTiles>(QC_UNROLLED(t) {
    const Ints five = add(sums[0][t], shift_left<2>(sums[0][t]));
    acc[0][t] = add(acc[0][t], shift_right_signed<8>(sub(five, sums[1][t])));
  });
}

template <int kBits, int kTiles>
QC_INLINE void fused_row_block(const uint8_t* codes, int64_t num_chunks,
                               const int8_t* const (&x)[1], int64_t column,
                               Ints (&acc)[1][kTiles]) {
  // 16,384 columns of bytes: 4 * 255 * 128 * 16,384 = 2^31 less 2^23.
  constexpr int64_t kMost = 16384 / chunk_columns(kBits);
  while (num_chunks > 0) {
    const int64_t taken = num_chunks < kMost ? num_chunks : kMost;
    num_chunks -= taken;
    if constexpr (kBits == kTrits) {
      add_trits(codes, taken, x, column, acc);
    } else if constexpr (kBits == kQuints) {
      add_quints(codes, taken, x, column, acc);
    } else {
      add_bits(codes, taken, x, column, acc);
    }
  }
}
#endif

template <int kBits, bool kIsTable, bool kIsWide, int kRows, int kTiles, bool kIsFloat>
void fused_rows(const Panel& p, int64_t row) {
  constexpr bool kIsByRow = kHasManySums && kRows == 1 && !kIsTable && has_row_block(kBits);
  const Weight& w = *p.weight;
  const int8_t* x[kRows];
  const int32_t* x_sums[kRows];
  take_rows<kRows>(*p.args, row, x, x_sums);
  alignas(16) uint8_t entries[16] = {};
  if (kIsTable) std::memcpy(entries, w.byte_table, size_t{1} << code_bits(kBits));
  Bytes zeros[kTiles];
  const Codes<kBits, kIsTable> decode{repeat16(entries), zeros};
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
    const int64_t num_chunks = ceil_div(w.columns_of(b), chunk_columns(kBits));  // a shift
    const BlockParts parts(p, block, kTiles * num_chunks * kTileChunkBytes<kBits>);
    // Zero points lie behind the codes, where the stream of bytes has not come yet: they are added at
    // the end of the block. Read first, each block waits for memory (2 bits took 18 % longer).
    Ints acc[kRows][kTiles];
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        acc[r][t] = w.has_zero_point ? set_ints(0) : start(p, parts, t, x_sums[r][b]);
      });
    });
    unroll<kTiles>(QC_UNROLLED(t) {
      if (is_sparse(kBits) || b == 0) zeros[t] = zeros_of<kBits>(w, parts.zero_points + t * kTile);
    });
    const int64_t column = b * w.block_size;
    if constexpr (kIsByRow) {
      fused_row_block<kBits>(block, num_chunks, x, column, acc);
    } else if constexpr (kHasWords && !kIsWide) {
      if (short_chunks > 0) {
        fused_short_block<kBits, kIsTable>(block, num_chunks, short_chunks, decode, x, column, acc);
      } else {
        fused_block<kBits, kIsTable, kIsWide>(block, num_chunks, decode, x, column, acc);
      }
    } else {
      fused_block<kBits, kIsTable, kIsWide>(block, num_chunks, decode, x, column, acc);
    }
    unroll<kTiles>(QC_UNROLLED(t) {
      Floats scale = set_floats(0);
      if (kIsFloat) scale = load_scales(w, parts.scales + t * kTile * w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        if (w.has_zero_point) acc[r][t] = add(acc[r][t], start(p, parts, t, x_sums[r][b]));
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
