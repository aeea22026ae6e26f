// SPDX-License-Identifier: Apache-2.0
// Float rows times a panel whose blocks have levels of their own (n16k4c/1), N14.
// With AVX-512 the 16 levels of an output are one register, which codes of 16 columns index.
#pragma once

#include "matmul_f32_panel.h"

namespace qcompile {
namespace {

constexpr int kPlaces = 16;
// The levels of 16 outputs, each output's repeated up to 16 places: then what an index has above
// the bits of a code changes nothing.
struct TileLevels {
  alignas(64) float of[kTile][kPlaces];
};

template <int kBits>
QC_INLINE void spread_levels(const Weight& w, const uint8_t* stored, TileLevels& out) {
  constexpr int kLevels = 1 << kBits;
  alignas(64) float found[kTile * kLevels];
  for (int i = 0; i < kLevels; ++i) {
    const Floats some = load_stored_scales(w, stored + i * kTile * w.level_bytes);
    store_floats(found + i * kTile, some, kTile);
  }
  for (int n = 0; n < kTile; ++n) {
    for (int c = 0; c < kPlaces; c += kLevels) {
      std::memcpy(out.of[n] + c, found + n * kLevels, sizeof(float) << kBits);
    }
  }
}

// The bytes of a tile's levels.
template <int kBits>
QC_INLINE int64_t level_run(const Weight& w) {
  return int64_t{kTile * w.level_bytes} << kBits;
}

#ifdef QC_HAS_MANY_SUMS

constexpr int kStep = 16;  // columns
template <int kBits>
constexpr int kChunksOfStep = kGroupsOfChunk<kBits> < 4 ? 4 / kGroupsOfChunk<kBits> : 1;
template <int kBits>
constexpr int kStepsOfChunk = kGroupsOfChunk<kBits> < 4 ? 1 : kGroupsOfChunk<kBits> / 4;

// Group `kGroupIndex` from a chunk on. Of 4 bits the upper halves of bytes hold other codes.
template <int kBits, int kGroupIndex>
QC_INLINE Bytes loose_group(const uint8_t* codes, int64_t stride) {
  constexpr int kGroups = kGroupsOfChunk<kBits>, kOwn = kGroupIndex % kGroups;
  const uint8_t* tile = codes + kGroupIndex / kGroups * stride;
  if constexpr (kBits == 4) return shift_right_ints<4 * kOwn>(load_bytes(tile));
  return decode_group<kBits, kOwn>(tile, set_bytes(0));
}

// The codes of 16 columns, those of one output side by side.
struct StepCodes {
  alignas(64) uint8_t bytes[kTile * kStep];

  QC_INLINE explicit StepCodes(Bytes (&groups)[4]) {
    transpose_numbers(groups);
    unroll<4>(QC_UNROLLED(i) { store_bytes(bytes + 64 * i, groups[i]); });
  }
  template <int kOutput>
  QC_INLINE Floats values(const TileLevels& levels) const {
    const Ints index = widen(bytes + kOutput % 4 * 64 + kOutput / 4 * kStep);
    return lookup16_floats(load_floats(levels.of[kOutput]), index);
  }
};

// f(codes, columns) for each 16 columns of `chunks` chunks; of 4 bits the last may be 8 columns.
template <int kBits, class F>
QC_INLINE void each_step(const uint8_t* codes, int64_t stride, int64_t chunks, const F& f) {
  constexpr int kChunks = kChunksOfStep<kBits>;
  for (; chunks >= kChunks; chunks -= kChunks, codes += kChunks * stride) {
    unroll<kStepsOfChunk<kBits>>(QC_UNROLLED(s) {
      Bytes groups[4];
      unroll<4>(QC_UNROLLED(i) { groups[i] = loose_group<kBits, 4 * s + i>(codes, stride); });
      f(StepCodes(groups), kStep);
    });
  }
  if constexpr (kChunks == 2) {
    if (chunks == 0) return;
    Bytes groups[4] = {loose_group<kBits, 0>(codes, stride), loose_group<kBits, 1>(codes, stride),
                       set_bytes(0), set_bytes(0)};
    f(StepCodes(groups), kStep / 2);
  }
}

// Sums of vectors 0 ... 15, one a lane.
QC_INLINE Floats sums_of(const Floats (&part)[kTile]) {
  Bytes quarters[4];
  unroll<4>(QC_UNROLLED(q) {
    Bytes v[4];
    unroll<4>(QC_UNROLLED(i) { v[i] = as_ints(part[4 * q + i]); });
    transpose_numbers(v);
    quarters[q] = as_ints(add(add(as_floats(v[0]), as_floats(v[1])),
                              add(as_floats(v[2]), as_floats(v[3]))));
  });
  transpose_quarters(quarters);
  return add(add(as_floats(quarters[0]), as_floats(quarters[1])),
             add(as_floats(quarters[2]), as_floats(quarters[3])));
}

// One tile of a run of chunks times a row.
template <int kBits>
QC_INLINE Floats tile_run(const uint8_t* codes, int64_t stride, int64_t chunks,
                          const TileLevels& levels, const float* x) {
  Floats part[kTile];
  unroll<kTile>(QC_UNROLLED(n) { part[n] = set_floats(0); });
  each_step<kBits>(codes, stride, chunks, [&](const StepCodes& step, int columns)
                       __attribute__((always_inline)) {
    const Floats xs = as_floats(load_ints(reinterpret_cast<const int32_t*>(x), columns));
    unroll<kTile>(QC_UNROLLED(n) {
      part[n] = fmadd(step.template values<n>(levels), xs, part[n]);
    });
    x += columns;
  });
  return sums_of(part);
}

// Columns of a panel that all tiles pass while they lie in the first cache.
constexpr int64_t kRun = 512;

template <int kBits>
void levels_row(const matmul_f32_n16k4_args& a, int64_t row) {
  constexpr int64_t kChunk = chunk_columns(kBits), kMost = kRun / kChunk;
  const Weight& w = *a.weight;
  const int tiles = n16k4_tiles(w, a.panel);
  const int64_t stride = tiles * kTileChunkBytes<kBits>;
  Floats total[kPanelTiles];
  for (Floats& sum : total) sum = set_floats(0);
  const uint8_t* block = n16k4_panel(w, a.panel);
  for (int64_t b = 0; b < w.num_blocks; ++b, block += n16k4_block_bytes(w, 0, tiles)) {
    const uint8_t* stored = block - n16k4_lead_bytes(w, tiles);
    TileLevels levels[kPanelTiles];
    for (int t = 0; t < tiles; ++t) {
      spread_levels<kBits>(w, stored + t * level_run<kBits>(w), levels[t]);
    }
    const int64_t chunks = w.padded_columns_of(b) / kChunk;
    for (int64_t c = 0; c < chunks; c += kMost) {
      const int64_t count = chunks - c < kMost ? chunks - c : kMost;
      const float* x = a.x_rows[row] + b * w.block_size + c * kChunk;
      for (int t = 0; t < tiles; ++t) {
        const uint8_t* codes = block + c * stride + t * kTileChunkBytes<kBits>;
        total[t] = add(total[t], tile_run<kBits>(codes, stride, count, levels[t], x));
      }
    }
  }
  for (int t = 0; t < tiles; ++t) store_tile(a, row, t, total[t]);
}

// Floats of a tile, column by column `step` apart.
template <int kBits>
QC_INLINE void unpack_run(const uint8_t* codes, int64_t stride, int64_t chunks,
                          const TileLevels& levels, float* out, int64_t step) {
  each_step<kBits>(codes, stride, chunks, [&](const StepCodes& codes16, int columns)
                       __attribute__((always_inline)) {
    Bytes v[4][4];
    unroll<4>(QC_UNROLLED(q) {
      unroll<4>(QC_UNROLLED(i) {
        v[q][i] = as_ints(codes16.template values<4 * q + i>(levels));
      });
      transpose_numbers(v[q]);
    });
    unroll<4>(QC_UNROLLED(i) {
      Bytes quarters[4] = {v[0][i], v[1][i], v[2][i], v[3][i]};
      transpose_quarters(quarters);
      unroll<4>(QC_UNROLLED(q) {
        if (4 * q < columns) store_bytes(out + (4 * q + i) * step, quarters[q]);
      });
    });
    out += columns * step;
  });
}

#else

template <int kBits>
QC_INLINE void unpack_run(const uint8_t* codes, int64_t stride, int64_t chunks,
                          const TileLevels& levels, float* out, int64_t step) {
  alignas(64) static const int32_t kFirst[kTile] = {0,   16,  32,  48,  64,  80,  96,  112,
                                                    128, 144, 160, 176, 192, 208, 224, 240};
  const Ints first = load_ints(kFirst);
  for (; chunks > 0; --chunks, codes += stride) {
    unroll<kGroupsOfChunk<kBits>>(QC_UNROLLED(g) {
      const Bytes u = decode_group<kBits, g>(codes, set_bytes(0));
      unroll<4>(QC_UNROLLED(i) {
        store_floats(out, lookup_floats(levels.of[0], add(byte_of<i>(u), first)), kTile);
        out += step;
      });
    });
  }
}

#endif

// As unpack_slice.
template <int kBits>
void unpack_levels(const matmul_f32_n16k4_args& a, int tiles, int64_t first, int64_t count) {
  constexpr int64_t kChunk = chunk_columns(kBits);
  const Weight& w = *a.weight;
  const int64_t stride = tiles * kTileChunkBytes<kBits>, step = tiles * kTile;
  float* out = a.scratch;
  for (int64_t k = first; k < first + count;) {
    const int64_t b = k / w.block_size, end = b * w.block_size + w.columns_of(b);
    const int64_t left = (end < first + count ? end : first + count) - k;
    const int64_t chunks = ceil_div(left, kChunk);
    const uint8_t* block = n16k4_panel(w, a.panel) + b * n16k4_block_bytes(w, 0, tiles);
    const uint8_t* codes = block + (k - b * w.block_size) / kChunk * stride;
    for (int t = 0; t < tiles; ++t) {
      TileLevels levels;
      const uint8_t* stored = block - n16k4_lead_bytes(w, tiles) + t * level_run<kBits>(w);
      spread_levels<kBits>(w, stored, levels);
      unpack_run<kBits>(codes + t * kTileChunkBytes<kBits>, stride, chunks, levels, out + t * kTile,
                        step);
    }
    k += chunks * kChunk;
    out += chunks * kChunk * step;
  }
}

template <int kBits>
void levels_panel(const matmul_f32_n16k4_args& a) {
#ifdef QC_HAS_MANY_SUMS
  if (a.num_rows <= 3) {
    for (int64_t row = 0; row < a.num_rows; ++row) levels_row<kBits>(a, row);
    return;
  }
#endif
  sliced_panel<kBits>(a, [&](int tiles, int64_t first, int64_t count) {
    unpack_levels<kBits>(a, tiles, first, count);
  });
}

inline void levels_product(const matmul_f32_n16k4_args& a) {
  switch (a.weight->bits) {
    case 1: return levels_panel<1>(a);
    case 2: return levels_panel<2>(a);
    case 3: return levels_panel<3>(a);
    default: return levels_panel<4>(a);
  }
}

}  // namespace
}  // namespace qcompile
