// SPDX-License-Identifier: Apache-2.0
// Tables of int16 times many rows with one multiplication for two columns (Winograd, "A New
// Algorithm for Inner Products", 1968):
//   x0 w0 + x1 w1 = (x0 + w1)(x1 + w0) - x0 x1 - w0 w1
// The last two products are a row's and an output's own. vpdpwssd takes 32 of the first ones, and
// the two additions before each have pipes that products leave idle. Sums wrap at 2^32 on their way.
// All rows take a slice of columns before the next one is unpacked: its words stay in the second
// cache, and the four rows that become words beside it in the first.
#pragma once

#include "matmul_s8_table_panel.h"
#include "matmul_s8_unpacked.h"

#ifdef QC_HAS_CROSSED

namespace qcompile {
namespace {

static_assert(int64_t{kCrossedColumns} * kCrossedMost * 128 <= INT32_MAX, "a slice is an int32");
static_assert(kCrossedMost + 128 <= INT16_MAX, "an entry and a byte of x add to an int16");
// Of a group of 4 columns and a tile: columns 0 and 2, then 1 and 3 of 16 outputs.
constexpr int kCrossedGroupBytes = 128;
constexpr int kCrossedRows = 4;  // and all tiles of a panel share a piece
constexpr int64_t kCrossedGroups = kCrossedColumns / kGroup;

// What of a block lies in a slice.
struct Piece {
  int64_t block, column, groups;  // column: the first one, of the block
  bool ends_block;
};

// At most kCrossedColumns columns: a part of a block, or whole blocks.
struct Slice {
  Piece pieces[kCrossedGroups];
  int num_pieces = 0;

  // From `column` of `block` on; both move behind the slice.
  Slice(const Weight& w, int64_t* block, int64_t* column) {
    for (int64_t left = kCrossedColumns; left > 0 && *block < w.num_blocks;) {
      const int64_t rest = w.columns_of(*block) - *column;
      if (num_pieces && rest > left) return;
      const int64_t taken = rest < left ? rest : left;
      pieces[num_pieces++] = {*block, *column, ceil_div(taken, kGroup), taken == rest};
      left -= taken;
      *column = taken == rest ? 0 : *column + taken;
      *block += taken == rest;
    }
  }
};

// The scratch memory.
struct Crossed {
  uint8_t* words;         // [groups][tiles][128] of a slice
  int32_t* products;      // [pieces][tiles][16]: -sum of w0 w1
  float* floats;          // [rows][tiles][16]
  int32_t *high, *low;    // the same: 256 high + low

  explicit Crossed(uint8_t* scratch) : words(scratch) {
    products = reinterpret_cast<int32_t*>(words + kCrossedColumns * kPanel * 2);
    floats = reinterpret_cast<float*>(products + kCrossedGroups * kPanel);
    high = reinterpret_cast<int32_t*>(floats + kCrossedChunk * kPanel);
    low = high + kCrossedChunk * kPanel;
  }
};

inline void sum_products(const Slice& slice, int tiles, const Crossed& c) {
  const int64_t step = tiles * kCrossedGroupBytes;
  const uint8_t* words = c.words;
  int32_t* out = c.products;
  for (int i = 0; i < slice.num_pieces; ++i, out += tiles * kTile) {
    const int64_t groups = slice.pieces[i].groups;
    for (int t = 0; t < tiles; ++t) {
      Ints sum = set_ints(0);
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* at = words + g * step + t * kCrossedGroupBytes;
        sum = dot16(sum, load_bytes(at), load_bytes(at + 64));
      }
      store_ints(out + t * kTile, sub(set_ints(0), sum), kTile);
    }
    words += groups * step;
  }
}

// Where rows go on.
struct RunPlace {
  const Run* run;
  int64_t taken;  // groups of the run
};

// A slice of four rows of x as words; beyond the last row the last one again.
struct CrossedX {
  alignas(64) int32_t even[kCrossedRows][kCrossedGroups], odd[kCrossedRows][kCrossedGroups];
  alignas(16) int32_t products[kCrossedGroups][kCrossedRows];  // of every piece: sum of x0 x1

  // Gives the place behind the slice.
  QC_INLINE RunPlace take(const matmul_s8_n16k4_args& a, const Slice& slice, int64_t row,
                          RunPlace place) {
    const int8_t *x[kCrossedRows], *next[kCrossedRows];  // what is next comes to the cache
    const int64_t last = a.num_rows - 1;
    unroll<kCrossedRows>(QC_UNROLLED(r) {
      x[r] = a.x_rows[row + r < last ? row + r : last];
      next[r] = a.x_rows[row + r + kCrossedRows < last ? row + r + kCrossedRows : last];
    });
    int64_t group = 0;
    for (int i = 0; i < slice.num_pieces; ++i) {
      Ints sums[kCrossedRows] = {set_ints(0), set_ints(0), set_ints(0), set_ints(0)};
      for (const int64_t end = group + slice.pieces[i].groups; group < end;) {
        const int64_t in_run = place.run->num_groups - place.taken, in_piece = end - group;
        const int64_t count = in_piece < in_run ? in_piece : in_run;
        int64_t at = place.run->x_offset + place.taken * kGroup;
        const int64_t stop = group + count, whole = stop - count % kTile;
        for (; group < whole; group += kTile, at += kTile * kGroup) {
          unroll<kCrossedRows>(QC_UNROLLED(r) {
            __builtin_prefetch(next[r] + at);
            Bytes bytes = load_bytes(x[r] + at);
            keep(bytes);  // else it is loaded twice
            const Ints of_even = even_words(bytes), of_odd = odd_words(bytes);
            store_bytes(&even[r][group], of_even);
            store_bytes(&odd[r][group], of_odd);
            sums[r] = dot16(sums[r], of_even, of_odd);
          });
        }
        const int64_t rest = stop - group;
        if (rest) {
          unroll<kCrossedRows>(QC_UNROLLED(r) {
            const Bytes bytes = load_groups(x[r] + at, rest);
            const Ints of_even = even_words(bytes), of_odd = odd_words(bytes);
            store_ints(&even[r][group], of_even, rest);
            store_ints(&odd[r][group], of_odd, rest);
            sums[r] = dot16(sums[r], of_even, of_odd);
          });
        }
        group = stop;
        place.taken += count;
        if (place.taken == place.run->num_groups) place = {place.run + 1, 0};
      }
      _mm_store_si128(reinterpret_cast<__m128i*>(products[i]), sum4(sums));
    }
    return place;
  }
};

template <int kRows, int kTiles>
QC_INLINE void crossed_piece(const uint8_t* words, const CrossedX& x, int64_t first, int64_t groups,
                             Ints (&acc)[kRows][kTiles]) {
  Ints sums[kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      sums[r][t] = acc[r][t];
      keep(sums[r][t]);
    });
  });
  for (int64_t g = first; g < first + groups; ++g, words += kTiles * kCrossedGroupBytes) {
    Bytes even[kTiles], odd[kTiles];
    unroll<kTiles>(QC_UNROLLED(t) {
      even[t] = load_bytes(words + t * kCrossedGroupBytes);
      odd[t] = load_bytes(words + t * kCrossedGroupBytes + 64);
      keep(even[t]);
      keep(odd[t]);
    });
    unroll<kRows>(QC_UNROLLED(r) {
      const Ints x_even = set_ints(x.even[r][g]), x_odd = set_ints(x.odd[r][g]);
      unroll<kTiles>(QC_UNROLLED(t) {
        sums[r][t] = dot16(sums[r][t], add_words(odd[t], x_even), add_words(even[t], x_odd));
      });
    });
  }
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      keep(sums[r][t]);
      acc[r][t] = sums[r][t];
    });
  });
}

// The sum of a part of a block, of one row and tile, at `at` of the scratch memory. Gives the sum of
// the block as a float where the part ends it.
template <bool kIsFloat>
QC_INLINE Floats add_part(const Crossed& c, bool ends_block, int64_t at, Ints sum) {
  Ints high = add(load_ints(c.high + at), shift_right_signed<8>(sum));
  Ints low = add(load_ints(c.low + at), and_ints(sum, set_ints(255)));
  const Floats of_block = TablePanel::as_float(high, low);
  if (kIsFloat && ends_block) high = low = set_ints(0);
  store_ints(c.high + at, high, kTile);
  store_ints(c.low + at, low, kTile);
  return of_block;
}

// The sums of a piece: to floats by the block's scales, or to 256 high + low. A block that is one
// piece is the float that as_float() makes of its parts: the sum, rounded once.
template <int kRows, int kTiles, bool kIsFloat>
QC_INLINE void add_sums(const Panel& p, const Crossed& c, const Piece& piece, int64_t row,
                        const Ints (&acc)[kRows][kTiles]) {
  const Weight& w = *p.weight;
  const bool is_last = piece.block == w.num_blocks - 1;
  const uint8_t* scales = p.stream + piece.block * p.block_bytes +
                          (is_last ? p.last_code_bytes : p.code_bytes);
  const bool is_whole = piece.ends_block && piece.column == 0;
  const auto each = [&](const auto& to_float) __attribute__((always_inline)) {
    unroll<kTiles>(QC_UNROLLED(t) {
      Floats scale = set_floats(0);
      if (kIsFloat) scale = load_scales(w, scales + t * kTile * w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        const int64_t at = ((row + r) * kTiles + t) * kTile;
        const Floats of_block = to_float(at, acc[r][t]);
        if (!kIsFloat || !piece.ends_block) return;
        store_floats(c.floats + at, fmadd(scale, of_block, load_floats(c.floats + at)), kTile);
      });
    });
  };
  if (kIsFloat && is_whole) {
    each([](int64_t, Ints sum) __attribute__((always_inline)) { return to_floats(sum); });
  } else {
    each([&](int64_t at, Ints sum) __attribute__((always_inline)) {
      return add_part<kIsFloat>(c, piece.ends_block, at, sum);
    });
  }
}

// kRows rows of a chunk from `row` times a slice.
template <int kRows, int kTiles, bool kIsFloat>
QC_INLINE void crossed_rows(const Panel& p, const Crossed& c, const Slice& slice, const CrossedX& x,
                            int64_t row) {
  int64_t first = 0;
  for (int i = 0; i < slice.num_pieces; ++i) {
    const Piece& piece = slice.pieces[i];
    Ints acc[kRows][kTiles];
    unroll<kTiles>(QC_UNROLLED(t) {
      const Ints own = load_ints(c.products + (i * kTiles + t) * kTile);
      unroll<kRows>(QC_UNROLLED(r) { acc[r][t] = sub(own, set_ints(x.products[i][r])); });
    });
    const uint8_t* words = c.words + first * kTiles * kCrossedGroupBytes;
    crossed_piece<kRows, kTiles>(words, x, first, piece.groups, acc);
    first += piece.groups;
    add_sums<kRows, kTiles, kIsFloat>(p, c, piece, row, acc);
  }
}

// `count` rows from `first` times a slice; gives the place behind it. The next rows become words
// before these are multiplied, which hides what they wait for.
template <int kTiles, bool kIsFloat>
RunPlace crossed_slice(const Panel& p, const Crossed& c, const Slice& slice, int64_t first,
                       int64_t count, const RunPlace& place) {
  CrossedX x[2];
  const RunPlace behind = x[0].take(*p.args, slice, first, place);
  for (int64_t row = 0, i = 0; row < count; row += kCrossedRows, i ^= 1) {
    const int64_t next = row + kCrossedRows;
    if (next < count) x[i ^ 1].take(*p.args, slice, first + next, place);
    if (row + 1 < count) {
      crossed_rows<kCrossedRows, kTiles, kIsFloat>(p, c, slice, x[i], row);
    } else {
      crossed_rows<1, kTiles, kIsFloat>(p, c, slice, x[i], row);
    }
  }
  return behind;
}

template <int kTiles, bool kIsFloat>
void finish_crossed(const TablePanel& tp, const Crossed& c, int64_t first, int64_t count) {
  for (int64_t row = 0; row < count; ++row) {
    Floats floats[1][kTiles];
    Ints totals[1][kTiles];
    unroll<kTiles>(QC_UNROLLED(t) {
      const int64_t at = (row * kTiles + t) * kTile;
      if constexpr (kIsFloat) {
        floats[0][t] = load_floats(c.floats + at);
      } else {
        totals[0][t] = tp.total(load_ints(c.high + at), load_ints(c.low + at), t * kTile);
      }
    });
    if constexpr (kIsFloat) {
      finish_floats<1, kTiles>(tp.panel, first + row, 1, 0, floats);
    } else {
      finish_ints<1, kTiles>(tp.panel, first + row, 1, 0, totals);
    }
  }
}

using UnpackSlice = void (*)(const Panel& p, const Slice& slice, uint8_t* words);

template <int kTiles, bool kIsFloat>
void crossed_tiles(const TablePanel& tp, UnpackSlice unpack) {
  const Panel& p = tp.panel;
  const Crossed c(p.args->scratch);
  for (int64_t first = 0; first < p.args->num_rows; first += kCrossedChunk) {
    const int64_t left = p.args->num_rows - first;
    const int64_t count = left < kCrossedChunk ? left : kCrossedChunk;
    const int64_t cleared = ceil_div(count, kCrossedRows) * kCrossedRows * kTiles * kTile * 4;
    for (int32_t* sums : {reinterpret_cast<int32_t*>(c.floats), c.high, c.low}) {
      std::memset(sums, 0, static_cast<size_t>(cleared));
    }
    RunPlace place{p.args->runs, 0};
    for (int64_t block = 0, column = 0; block < p.weight->num_blocks;) {
      const Slice slice(*p.weight, &block, &column);
      unpack(p, slice, c.words);
      sum_products(slice, kTiles, c);
      place = crossed_slice<kTiles, kIsFloat>(p, c, slice, first, count, place);
    }
    finish_crossed<kTiles, kIsFloat>(tp, c, first, count);
  }
}

template <bool kIsFloat>
void crossed_panel(const TablePanel& tp, UnpackSlice unpack) {
  static_assert(kPanelTiles == 4 && kMaxTiles == 4);
  switch (tp.panel.tiles) {
    case 1: return crossed_tiles<1, kIsFloat>(tp, unpack);
    case 2: return crossed_tiles<2, kIsFloat>(tp, unpack);
    case 3: return crossed_tiles<3, kIsFloat>(tp, unpack);
    default: return crossed_tiles<4, kIsFloat>(tp, unpack);
  }
}

}  // namespace
}  // namespace qcompile

#endif
