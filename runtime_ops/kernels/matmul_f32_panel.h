// SPDX-License-Identifier: Apache-2.0
// Float rows times a packed panel, N14: codes become floats in registers, a few rows share them.
// The zero point is taken off the code before the product, so that nothing cancels.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

struct BlockView {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* zero_points;
  int64_t num_chunks;
  int64_t column;
};

// How codes become values: less a zero point, by a table, or by one with special values.
enum class Code { kInteger, kTable, kSpecial };
template <Code kCode>
constexpr bool kIsTable = kCode != Code::kInteger;

// What is in the place of the zero point: 16 of them, or special values as floats.
struct Points {
  Ints zero_points;
  Floats specials;
  int special_code;
};

// The unscaled values of 16 outputs at column `kByte` of a group.
template <int kBits, Code kCode, int kByte>
QC_INLINE Floats values(Bytes u, const Points& points, const float* table, Floats table16) {
  if constexpr (kCode == Code::kSpecial) {
    const Ints index = byte_of<kByte>(u);
    return replace_where(lookup16_floats(table16, index), index, points.special_code,
                         points.specials);
  } else if constexpr (kIsTable<kCode> && code_bits(kBits) <= 4) {
    return lookup16_floats(table16, shift_right_ints<8 * kByte>(u));
  } else if constexpr (kIsTable<kCode>) {
    return lookup_floats(table, byte_of<kByte>(u));
  } else {
    return to_floats(sub(byte_of<kByte>(u), points.zero_points));
  }
}

template <int kBits, Code kCode>
QC_INLINE Floats table_of(const Weight& w) {
  alignas(64) float entries[16] = {};
  if constexpr (kIsTable<kCode> && code_bits(kBits) <= 4) {
    std::memcpy(entries, w.float_table, sizeof(float) << code_bits(kBits));
  }
  return load_floats(entries);
}

// `bytes`: the 16 of the tile's zero points or special values.
template <Code kCode>
QC_INLINE Points points_of(const Weight& w, const uint8_t* bytes) {
  Points points{set_ints(w.offset), set_floats(0), w.special_code};
  if constexpr (kCode == Code::kSpecial) {
    points.specials = to_floats(widen(reinterpret_cast<const int8_t*>(bytes)));
  } else if (w.has_zero_point) {
    points.zero_points = widen(bytes);
  }
  return points;
}

// sums[r] of one tile over one block. A row has one sum a column of a group, to hide latency,
// where it is alone.
template <int kBits, Code kCode, int kRows>
QC_INLINE void tile_block(const Weight& w, const BlockView& view, int tiles, int tile,
                          const float* const* x, Floats (&sums)[kRows]) {
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  constexpr int kChains = kRows == 1 ? 4 : 1;
  const Points points = points_of<kCode>(w, view.zero_points + tile * kTile);
  const Bytes zeros = zeros_of<kBits>(w, view.zero_points + tile * kTile);
  const Floats table16 = table_of<kBits, kCode>(w);
  Floats part[kRows][kChains];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kChains>(QC_UNROLLED(i) { part[r][i] = set_floats(0); });
  });
  const uint8_t* codes = view.codes + tile * kBytes;
  int64_t k = view.column;
  for (int64_t c = 0; c < view.num_chunks; ++c, codes += tiles * kBytes, k += kChunk) {
    unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
      const Bytes u = decode_group<kBits, g>(codes, zeros);
      unroll<4>(QC_UNROLLED(i) {
        const Floats v = values<kBits, kCode, i>(u, points, w.float_table, table16);
        unroll<kRows>(QC_UNROLLED(r) {
          Floats& sum = part[r][i % kChains];
          sum = fmadd(v, set_floats(x[r][k + 4 * g + i]), sum);
        });
      });
    });
  }
  unroll<kRows>(QC_UNROLLED(r) {
    sums[r] = part[r][0];
    if constexpr (kChains == 4) {
      sums[r] = add(add(part[r][0], part[r][1]), add(part[r][2], part[r][3]));
    }
  });
}

// One row and all tiles of a panel, which share the columns of x, where registers hold that many
// sums and a table of 16 floats is one instruction.
template <int kBits, Code kCode>
void panel_block(const Weight& w, const BlockView& view, const float* x, Floats (&sums)[kPanelTiles]);
#ifdef QC_HAS_MANY_SUMS
template <int kBits, Code kCode>
QC_INLINE void panel_block(const Weight& w, const BlockView& view, const float* x,
                           Floats (&sums)[kPanelTiles]) {
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  // Both nibbles are indexes as they lie: a lookup takes the lowest four bits of what is shifted.
  constexpr bool kIsNibbles = kBits == 4 && kCode == Code::kTable;
  const Floats table16 = table_of<kBits, kCode>(w);
  Points points[kPanelTiles];
  Bytes zeros[kPanelTiles];
  Floats part[kPanelTiles][2];
  unroll<kPanelTiles>(QC_UNROLLED(t) {
    points[t] = points_of<kCode>(w, view.zero_points + t * kTile);
    zeros[t] = zeros_of<kBits>(w, view.zero_points + t * kTile);
    part[t][0] = part[t][1] = set_floats(0);
  });
  const uint8_t* codes = view.codes;
  const float* xs = x + view.column;
  for (int64_t c = 0; c < view.num_chunks; ++c, codes += kPanelTiles * kBytes, xs += kChunk) {
    unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
      Bytes u[kPanelTiles];
      unroll<kPanelTiles>(QC_UNROLLED(t) {
        const uint8_t* tile = codes + t * kBytes;
        u[t] = kIsNibbles ? shift_right_ints<4 * g>(load_bytes(tile))
                          : decode_group<kBits, g>(tile, zeros[t]);
      });
      unroll<4>(QC_UNROLLED(i) {
        const Floats column = set_floats(xs[4 * g + i]);
        unroll<kPanelTiles>(QC_UNROLLED(t) {
          const Floats v =
              values<kBits, kCode, i>(u[t], points[t], w.float_table, table16);
          part[t][i % 2] = fmadd(v, column, part[t][i % 2]);
        });
      });
    });
  }
  unroll<kPanelTiles>(QC_UNROLLED(t) { sums[t] = add(part[t][0], part[t][1]); });
}
#endif

QC_INLINE void store_tile(const matmul_f32_n16k4_args& a, int64_t row, int tile, Floats total) {
  const int64_t left = a.weight->N - a.panel * kPanel - tile * kTile;
  if (a.bias) {
    const auto* bias = reinterpret_cast<const int32_t*>(a.bias) + tile * kTile;
    total = add(total, as_floats(load_ints(bias, left)));
  }
  store_floats(a.y + row * a.y_stride + tile * kTile,
               min(set_floats(a.clip_max), max(set_floats(a.clip_min), total)), left);
}

template <int kBits, Code kCode, int kRows>
void float_rows(const matmul_f32_n16k4_args& a, int64_t row) {
  const Weight& w = *a.weight;
  const int tiles = n16k4_tiles(w, a.panel);
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = a.x_rows[row + r < a.num_rows ? row + r : a.num_rows - 1];
  Floats total[kPanelTiles][kRows] = {};
  const uint8_t* block = n16k4_panel(w, a.panel);
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const uint8_t* scales = block + n16k4_block_code_bytes(w, b, tiles);
    const BlockView view{block, scales, n16k4_points(w, block, scales, tiles),
                         w.padded_columns_of(b) / chunk_columns(kBits), b * w.block_size};
    Floats of_panel[kPanelTiles];
    const bool is_panel = kHasManySums && kRows == 1 && tiles == kPanelTiles;
    if constexpr (kHasManySums && kRows == 1) {
      if (is_panel) panel_block<kBits, kCode>(w, view, x[0], of_panel);
    }
    for (int t = 0; t < tiles; ++t) {
      Floats sums[kRows];
      if (is_panel) {
        sums[0] = of_panel[t];
      } else {
        tile_block<kBits, kCode, kRows>(w, view, tiles, t, x, sums);
      }
      const Floats scale = load_scales(w, scales + t * kTile * w.scale_bytes);
      for (int r = 0; r < kRows; ++r) total[t][r] = fmadd(scale, sums[r], total[t][r]);
    }
    block += n16k4_block_bytes(w, b, tiles);
  }
  for (int t = 0; t < tiles; ++t) {
    for (int r = 0; r < kRows && row + r < a.num_rows; ++r) store_tile(a, row + r, t, total[t][r]);
  }
}

// ---- many rows: a slice of columns becomes floats once, then a register-blocked product ----

// out[column - first][tile][16] for `count` columns from `first`, both multiples of the chunk (the
// last slice writes whole chunks).
template <int kBits, Code kCode>
void unpack_slice(const matmul_f32_n16k4_args& a, int tiles, int64_t first, int64_t count) {
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  const Weight& w = *a.weight;
  const Floats table16 = table_of<kBits, kCode>(w);
  const uint8_t* stream = n16k4_panel(w, a.panel);
  const int64_t block_bytes = n16k4_block_bytes(w, 0, tiles);
  float* out = a.scratch;
  for (int64_t k = first; k < first + count; k += kChunk, out += kChunk * tiles * kTile) {
    const int64_t b = k / w.block_size;
    const uint8_t* block = stream + b * block_bytes;
    const uint8_t* scales = block + n16k4_block_code_bytes(w, b, tiles);
    const uint8_t* zero_points = n16k4_points(w, block, scales, tiles);
    const uint8_t* codes = block + (k - b * w.block_size) / kChunk * tiles * kBytes;
    for (int t = 0; t < tiles; ++t, codes += kBytes) {
      const Floats scale = load_scales(w, scales + t * kTile * w.scale_bytes);
      const Points points = points_of<kCode>(w, zero_points + t * kTile);
      const Bytes zeros = zeros_of<kBits>(w, zero_points + t * kTile);
      unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
        const Bytes u = decode_group<kBits, g>(codes, zeros);
        unroll<4>(QC_UNROLLED(i) {
          const Floats v = values<kBits, kCode, i>(u, points, w.float_table, table16);
          store_floats(out + ((4 * g + i) * tiles + t) * kTile, mul(v, scale), kTile);
        });
      });
    }
  }
}

struct Slice {
  int tiles;
  int64_t first, count;
  bool is_last;
};

// Adds the slice's products to y, which holds those of the columns before it.
template <int kRows, int kTiles>
QC_INLINE void slice_rows(const matmul_f32_n16k4_args& a, const Slice& slice, int64_t row,
                          int tile) {
  const int64_t outputs = a.weight->N - a.panel * kPanel - tile * kTile;
  const float* x[kRows];
  int64_t at[kRows];
  for (int r = 0; r < kRows; ++r) {
    const int64_t m = row + r < a.num_rows ? row + r : a.num_rows - 1;
    x[r] = a.x_rows[m] + slice.first;
    at[r] = m * a.y_stride + tile * kTile;
  }
  Floats acc[kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) {
      const int32_t* y = reinterpret_cast<const int32_t*>(a.y + at[r] + t * kTile);
      acc[r][t] = set_floats(0);
      if (slice.first > 0) acc[r][t] = as_floats(load_ints(y, outputs - t * kTile));
    });
  });
  const float* w = a.scratch + tile * kTile;
  const int64_t step = slice.tiles * kTile;
  for (int64_t k = 0; k < slice.count; ++k, w += step) {
    Floats v[kTiles];
    unroll<kTiles>(QC_UNROLLED(t) {
      v[t] = load_floats(w + t * kTile);
      keep(v[t]);
    });
    unroll<kRows>(QC_UNROLLED(r) {
      const Floats xs = set_floats(x[r][k]);
      unroll<kTiles>(QC_UNROLLED(t) { acc[r][t] = fmadd(v[t], xs, acc[r][t]); });
    });
  }
  unroll<kTiles>(QC_UNROLLED(t) {
    const int64_t left = outputs - t * kTile;
    Floats bias = set_floats(0);
    if (a.bias) {
      bias = as_floats(load_ints(reinterpret_cast<const int32_t*>(a.bias) + (tile + t) * kTile, left));
    }
    unroll<kRows>(QC_UNROLLED(r) {
      Floats total = acc[r][t];
      if (slice.is_last) {
        total = min(set_floats(a.clip_max), max(set_floats(a.clip_min), add(total, bias)));
      }
      if (row + r < a.num_rows) store_floats(a.y + at[r] + t * kTile, total, left);
    });
  });
}

template <int kTiles>
void slice_tiles(const matmul_f32_n16k4_args& a, const Slice& slice, int tile) {
  for (int64_t row = 0; row < a.num_rows;) {
    const int64_t left = a.num_rows - row;
    if (left > 3) {
      slice_rows<6, kTiles>(a, slice, row, tile);
      row += 6;
    } else if (left > 1) {
      slice_rows<3, kTiles>(a, slice, row, tile);
      row += 3;
    } else {
      slice_rows<1, kTiles>(a, slice, row, tile);
      row += 1;
    }
  }
}

// `unpack` writes the floats of `count` columns from `first` on to the scratch memory.
template <int kBits, class Unpack>
void sliced_panel(const matmul_f32_n16k4_args& a, const Unpack& unpack) {
  constexpr int64_t kChunk = chunk_columns(kBits), kMost = kFloatSlice / kChunk * kChunk;
  const int64_t K = a.weight->K;
  Slice slice{n16k4_tiles(*a.weight, a.panel), 0, 0, false};
  for (; slice.first < K; slice.first += kMost) {
    const int64_t left = K - slice.first;
    slice.count = left < kMost ? left : kMost;
    slice.is_last = left <= kMost;
    unpack(slice.tiles, slice.first, slice.count);
    for (int tile = 0; tile < slice.tiles;) {
      const int rest = slice.tiles - tile, taken = rest < kFloatTiles ? rest : kFloatTiles;
      if (taken == 1) slice_tiles<1>(a, slice, tile);
      if constexpr (kFloatTiles > 1) {
        if (taken == 2) slice_tiles<2>(a, slice, tile);
        if (taken == 3) slice_tiles<3>(a, slice, tile);
        if (taken == 4) slice_tiles<4>(a, slice, tile);
      }
      tile += taken;
    }
  }
}

template <int kBits, Code kCode>
void float_panel(const matmul_f32_n16k4_args& a) {
  if (a.num_rows > 8) {
    return sliced_panel<kBits>(a, [&](int tiles, int64_t first, int64_t count) {
      unpack_slice<kBits, kCode>(a, tiles, first, count);
    });
  }
  for (int64_t row = 0; row < a.num_rows;) {
    const int64_t left = a.num_rows - row;
    if (left == 1) {
      float_rows<kBits, kCode, 1>(a, row);
      row += 1;
    } else if (left <= 4) {
      float_rows<kBits, kCode, 4>(a, row);
      row += 4;
    } else {
      float_rows<kBits, kCode, kFloatRows>(a, row);
      row += kFloatRows;
    }
  }
}

// A weight with a table for few bits without zero points, where a lookup stands for a mask, a
// difference and a conversion: codes less their offset.
struct TabledWeight {
  Weight w;
  float entries[16];

  explicit TabledWeight(const Weight& given) : w(given) {
    if (!kHasManySums || code_bits(w.bits) > 4 || w.float_table || w.has_zero_point) return;
    for (int u = 0; u < 16; ++u) entries[u] = static_cast<float>(u - w.offset);
    w.float_table = entries;
  }
};

template <int kBits>
void float_product(const matmul_f32_n16k4_args& given, const TabledWeight& tabled) {
  matmul_f32_n16k4_args a = given;
  a.weight = &tabled.w;
  if constexpr (kBits == 3 || kBits == 4) {
    if (tabled.w.has_special) return float_panel<kBits, Code::kSpecial>(a);
  }
  tabled.w.float_table ? float_panel<kBits, Code::kTable>(a)
                       : float_panel<kBits, Code::kInteger>(a);
}

}  // namespace
}  // namespace qcompile
