// SPDX-License-Identifier: Apache-2.0
// Many rows times a panel: it is unpacked to bytes once, for a register-blocked product.
#pragma once

#include "matmul_s8_panel.h"

namespace qcompile {
namespace {

// The bytes of a panel: block b is [groups][tiles][64] at codes + b * block_bytes.
struct Unpacked {
  const uint8_t* codes;
  int64_t block_bytes;
};

template <int kBits>
QC_INLINE Bytes lookup(const Bytes* tables, Bytes u) {
  if constexpr (kBits <= 4) {
    return lookup16(tables[0], u);
  } else {
    Bytes value = lookup16_where(tables[0], u, 0);
    for (int high = 1; high < 1 << (kBits - 4); ++high) {
      value = bit_or(value, lookup16_where(tables[high], u, high));
    }
    return value;
  }
}

struct ByteStore {
  uint8_t* out;
  QC_INLINE void operator()(const BlockParts&, int, int64_t at, Bytes u) const {
    store_bytes(out + at * 64, u);
  }
};

// Gives the groups of some chunks of every tile to `store`, from place `at` on, which moves.
template <int kBits, bool kIsTable, class Store>
QC_INLINE void unpack_chunks(const Panel& p, const BlockParts& parts, const uint8_t* codes,
                             int64_t num_chunks, const Bytes* tables, const Store& store,
                             int64_t* at) {
  constexpr int kGroups = kGroupsOfChunk<kBits>;
  Bytes zeros[kPanelTiles];
  for (int t = 0; t < p.tiles; ++t) {
    zeros[t] = zeros_of<kBits>(*p.weight, parts.zero_points + t * kTile);
  }
  for (int64_t c = 0; c < num_chunks; ++c) {
    for (int t = 0; t < p.tiles; ++t, codes += kTileChunkBytes<kBits>) {
      unroll<kGroups>(QC_UNROLLED(g) {
        Bytes u = decode_group<kBits, g>(codes, zeros[t]);
        if constexpr (kIsTable) u = lookup<code_bits(kBits)>(tables, u);
        store(parts, t, *at + g * p.tiles + t, u);
      });
    }
    *at += kGroups * p.tiles;
  }
}

// Gives every group of every tile to `store`, with its place in [groups][tiles] of the panel.
template <int kBits, bool kIsTable, class Store>
void unpack_panel(const Panel& p, const Store& store) {
  const Weight& w = *p.weight;
  Bytes tables[16];
  if (kIsTable) {
    alignas(64) uint8_t entries[256] = {};
    std::memcpy(entries, w.byte_table, size_t{1} << code_bits(kBits));
    for (int i = 0; i < 16; ++i) tables[i] = repeat16(entries + 16 * i);
  }
  const uint8_t* block = p.stream;
  int64_t at = 0;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const BlockParts parts(p, block, n16k4_block_code_bytes(w, b, p.tiles));
    const int64_t num_chunks = w.padded_columns_of(b) / chunk_columns(kBits);
    unpack_chunks<kBits, kIsTable>(p, parts, block, num_chunks, tables, store, &at);
    block += n16k4_block_bytes(w, b, p.tiles);
  }
}

// How a panel of bytes is multiplied: by `dot`, of wide codes, or with sums in 16 bits.
enum class Product { kDot, kWideDot, kShortSums };

#ifdef QC_HAS_PAIRS
// smmla: two rows times the 8 columns of two groups. The sums keep the form of smmla over a run; a
// last single group is left to sdot.
template <bool kIsWide, int kRows>
QC_INLINE void pairs_block(const uint8_t* codes, int64_t step, const Run* run, const Run* end,
                           const int8_t* const (&x)[kRows], Ints (&acc)[kRows][1]) {
  static_assert(kRows % 2 == 0, "rows come in pairs");
  for (; run != end; ++run) {
    const int64_t last = run->x_offset + run->num_groups * kGroup;
    int64_t k = run->x_offset;
    PairSums sums[kRows / 2];
    unroll<kRows / 2>(QC_UNROLLED(r) { sums[r] = pair_sums(acc[2 * r][0], acc[2 * r + 1][0]); });
    for (; k + 2 * kGroup <= last; k += 2 * kGroup, codes += 2 * step) {
      const PairCodes u = pair_codes<kIsWide>(load_bytes(codes), load_bytes(codes + step));
      unroll<kRows / 2>(QC_UNROLLED(r) {
        sums[r] = dot_pairs(sums[r], u, x[2 * r] + k, x[2 * r + 1] + k);
      });
    }
    unroll<kRows / 2>(QC_UNROLLED(r) { part_sums(sums[r], &acc[2 * r][0], &acc[2 * r + 1][0]); });
    if (k == last) continue;
    const Bytes u = load_bytes(codes);
    codes += step;
    unroll<kRows>(QC_UNROLLED(r) {
      acc[r][0] = dot<kIsWide>(acc[r][0], u, set_ints(load_int(x[r] + k)));
    });
  }
}
#endif

template <bool kIsWide, int kRows, int kTiles>
QC_INLINE void product_block(const uint8_t* codes, int64_t step, const Run* run, const Run* end,
                             const int8_t* const (&x)[kRows], Ints (&acc)[kRows][kTiles]) {
#ifdef QC_HAS_PAIRS
  if constexpr (kRows % 2 == 0 && kTiles == 1) return pairs_block<kIsWide>(codes, step, run, end, x, acc);
#endif
  // keep() ends the life of the sums with the loop: else gcc stores each one to memory in every
  // step, where the code after the loop is short of registers.
  Ints sums[kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      sums[r][t] = acc[r][t];
      keep(sums[r][t]);
    });
  });
  for (; run != end; ++run) {
    const int64_t last = run->x_offset + run->num_groups * kGroup;
    for (int64_t k = run->x_offset; k < last; k += kGroup, codes += step) {
      Bytes u[kTiles];
      unroll<kTiles>(QC_UNROLLED(t) {
        u[t] = load_bytes(codes + 64 * t);
        keep(u[t]);
      });
      unroll<kRows>(QC_UNROLLED(r) {
        const Ints xs = set_ints(load_int(x[r] + k));
        unroll<kTiles>(QC_UNROLLED(t) { sums[r][t] = dot<kIsWide>(sums[r][t], u[t], xs); });
      });
    }
  }
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      keep(sums[r][t]);
      acc[r][t] = sums[r][t];
    });
  });
}

// Sums of pairs stay in 16 bits over `most` groups (short_groups), which saves two steps of three.
template <int kRows>
void short_block(const uint8_t* codes, int64_t step, const Run* run, const Run* end, int64_t most,
                 const int8_t* const (&x)[kRows], Ints (&acc)[kRows][1]);
#ifdef QC_HAS_WORDS
template <int kRows>
QC_INLINE void short_block(const uint8_t* codes, int64_t step, const Run* run, const Run* end,
                           int64_t most, const int8_t* const (&x)[kRows],
                           Ints (&acc)[kRows][1]) {
  for (; run != end; ++run) {
    const int64_t last = run->x_offset + run->num_groups * kGroup;
    for (int64_t k = run->x_offset; k < last;) {
      const int64_t stop = k + most * kGroup < last ? k + most * kGroup : last;
      Bytes sums[kRows];
      unroll<kRows>(QC_UNROLLED(r) { sums[r] = set_ints(0); });
      for (; k < stop; k += kGroup, codes += step) {
        Bytes u = load_bytes(codes);
        keep(u);
        unroll<kRows>(QC_UNROLLED(r) {
          sums[r] = add_words(sums[r], sum_pairs(u, set_ints(load_int(x[r] + k))));
          keep(sums[r]);  // else gcc is short of registers
        });
      }
      unroll<kRows>(QC_UNROLLED(r) {
        acc[r][0] = dot16(acc[r][0], sums[r], set_ints(0x10001));
      });
    }
  }
}
#endif

template <Product kProduct, int kRows, int kTiles, bool kIsFloat>
void product_rows(const Panel& p, const Unpacked& unpacked, int64_t row, int tile) {
  const Weight& w = *p.weight;
  const matmul_s8_n16k4_args& a = *p.args;
  const int8_t* x[kRows];
  const int32_t* x_sums[kRows];
  take_rows<kRows>(a, row, x, x_sums);
  // In memory on purpose: the registers are for acc, and these are used once a block.
  alignas(64) float floats[kRows][kTiles][kTile];
  Ints acc[kRows][kTiles];
  // Unrolled: an array that a variable indexes would lie in memory.
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      if constexpr (kIsFloat) store_floats(floats[r][t], set_floats(0), kTile);
      acc[r][t] = set_ints(0);
    });
  });
  const int64_t block_bytes = kIsFloat ? n16k4_block_bytes(w, 0, p.tiles) : p.block_bytes;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    // Computed anew for floats, though it takes divisions: with the panel's numbers gcc 12 needs
    // more registers, and blocks of 32 columns take 7 % longer. Codes have few columns and one block.
    const bool is_last = b == w.num_blocks - 1;
    const int64_t code_bytes = kIsFloat  ? n16k4_block_code_bytes(w, b, p.tiles)
                               : is_last ? p.last_code_bytes
                                         : p.code_bytes;
    const BlockParts parts(p, p.stream + b * block_bytes, code_bytes);
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        const Ints first = start(p, parts, tile + t, x_sums[r][b]);
        acc[r][t] = kIsFloat ? first : add(acc[r][t], first);
      });
    });
    const uint8_t* codes = unpacked.codes + b * unpacked.block_bytes + tile * 64;
    const Run *run = a.runs + (b ? a.run_ends[b - 1] : 0), *end = a.runs + a.run_ends[b];
    if constexpr (kProduct == Product::kShortSums) {
      short_block<kRows>(codes, p.tiles * 64, run, end, short_groups(w), x, acc);
    } else {
      product_block<kProduct == Product::kWideDot, kRows, kTiles>(codes, p.tiles * 64, run, end, x, acc);
    }
    if (!kIsFloat) continue;
    unroll<kTiles>(QC_UNROLLED(t) {
      const uint8_t* scales = parts.scales + (tile + t) * kTile * w.scale_bytes;
      const Floats scale = load_scales(w, scales);
      unroll<kRows>(QC_UNROLLED(r) {
        const Floats sum = fmadd(scale, to_floats(acc[r][t]), load_floats(floats[r][t]));
        store_floats(floats[r][t], sum, kTile);
      });
    });
  }
  if constexpr (kIsFloat) {
    Floats sums[kRows][kTiles];
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) { sums[r][t] = load_floats(floats[r][t]); });
    });
    finish_floats<kRows, kTiles>(p, row, a.num_rows - row, tile, sums);
  } else {
    finish_ints<kRows, kTiles>(p, row, a.num_rows - row, tile, acc);
  }
}

template <Product kProduct, int kTiles, bool kIsFloat>
void product_tiles(const Panel& p, const Unpacked& unpacked, int tile) {
  constexpr bool kIsShort = kProduct == Product::kShortSums;
  constexpr int kFull = kIsShort ? 6 : kRowsOfTiles[kTiles], kHalf = kIsShort ? 4 : kFull / 2;
  for (int64_t row = 0; row < p.args->num_rows;) {
    const int count = rows_of_block(p.args->num_rows - row, kFull, kHalf);
    if (count == kFull) {
      product_rows<kProduct, kFull, kTiles, kIsFloat>(p, unpacked, row, tile);
    } else if (count == kHalf) {
      product_rows<kProduct, kHalf, kTiles, kIsFloat>(p, unpacked, row, tile);
    } else {
      product_rows<kProduct, 1, kTiles, kIsFloat>(p, unpacked, row, tile);
    }
    row += count;
  }
}

template <bool kIsWide, bool kIsFloat>
void product_panel(const Panel& p, const Unpacked& unpacked) {
  if constexpr (kHasWords && !kIsWide) {
    if (short_groups(*p.weight) > 1) {
      for (int tile = 0; tile < p.tiles; ++tile) {
        product_tiles<Product::kShortSums, 1, kIsFloat>(p, unpacked, tile);
      }
      return;
    }
  }
  constexpr Product kProduct = kIsWide ? Product::kWideDot : Product::kDot;
  for (int tile = 0; tile < p.tiles;) {
    const int left = p.tiles - tile, taken = left < kMaxTiles ? left : kMaxTiles;
    if (taken == 1) product_tiles<kProduct, 1, kIsFloat>(p, unpacked, tile);
    if (taken == 2) product_tiles<kProduct, 2, kIsFloat>(p, unpacked, tile);
    if constexpr (kMaxTiles > 2) {
      if (taken == 3) product_tiles<kProduct, 3, kIsFloat>(p, unpacked, tile);
      if (taken == 4) product_tiles<kProduct, 4, kIsFloat>(p, unpacked, tile);
    }
    tile += taken;
  }
}

}  // namespace
}  // namespace qcompile
