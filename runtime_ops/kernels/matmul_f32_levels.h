// SPDX-License-Identifier: Apache-2.0
// Float rows times a panel whose blocks have levels of their own (n16k4c/1), N14.
// The 16 levels of an output are one vector, which codes of 16 of its columns index.
#pragma once

#include "matmul_f32_panel.h"

namespace qcompile {
namespace {

constexpr int kPlaces = 16;
// The levels of 16 outputs, each in 16 places.
struct TileLevels {
  alignas(64) float of[kTile][kPlaces];
};

// The bytes of a tile's levels.
template <int kBits>
QC_INLINE int64_t level_run(const Weight& w) {
  return int64_t{kTile * w.level_bytes} << kBits;
}

struct LaneNumbers {
  alignas(64) int32_t of[kPlaces];
};
template <class F>
constexpr LaneNumbers lane_numbers(F f) {
  LaneNumbers numbers{};
  for (int lane = 0; lane < kPlaces; ++lane) numbers.of[lane] = f(lane);
  return numbers;
}

constexpr int kStep = 16;  // columns whose codes index the levels of an output at once
// Which of them a lane has: the order in which shifts of an output's own bytes find them.
template <int kBits>
constexpr int column_of(int lane) {
  return kBits == 4 ? lane % 2 * 8 + lane / 2 : lane % 4 * 4 + lane / 4;
}
template <int kBits>
constexpr LaneNumbers kColumns = lane_numbers([](int lane) { return column_of<kBits>(lane); });
template <int kBits>
constexpr LaneNumbers kRepeats = lane_numbers([](int lane) { return lane & ((1 << kBits) - 1); });
// The bit where a lane's field of kWidth bits starts in the four bytes of an output, less kTo;
// fields of one bit from slot kFirst on.
template <int kWidth, int kFirst, int kTo>
constexpr LaneNumbers kShifts = lane_numbers([](int lane) {
  return (lane / 4 * 8 + kWidth * (lane % 4 + kFirst) - kTo) & 31;
});
// The same of 4 bits, where even lanes have one chunk and odd ones the next.
constexpr LaneNumbers kPairShifts = lane_numbers([](int lane) {
  return lane / 2 % 4 * 8 + lane / 8 * 4;
});

// Each output's levels again and again: what an index has above the bits of a code changes nothing.
// What is read beyond a tile's levels is codes, and is not kept.
template <int kBits>
QC_INLINE void spread_levels(const Weight& w, const uint8_t* stored, TileLevels& out) {
  const Ints repeats = load_ints(kRepeats<kBits>.of);
  for (int n = 0; n < kTile; ++n) {
    const Floats found = load_stored_scales(w, stored + n * (w.level_bytes << kBits));
    store_floats(out.of[n], lookup16_floats(found, repeats), kTile);
  }
}

// 16 columns of a tile, part kPart of a chunk.
template <int kBits, int kPart>
struct StepCodes {
  const uint8_t* chunk;

  // The codes of an output, in the lowest bits of lanes.
  template <int kOutput>
  QC_INLINE Ints index() const {
    const uint8_t* own = chunk + 4 * kOutput;
    if constexpr (kBits == 1) return shifted<1, 4 * kPart, 0>(own);
    if constexpr (kBits == 2) return shifted<2, 0, 0>(own);
    const Ints high = rotate_each(set_ints(load_int(own + 128)),
                                  load_ints(kShifts<1, 4 * kPart, 2>.of));
    return merge_bits(set_ints(3), shifted<2, 0, 0>(own + 64 * kPart), high);
  }

 private:
  template <int kWidth, int kFirst, int kTo>
  static QC_INLINE Ints shifted(const uint8_t* own) {
    return shift_each(set_ints(load_int(own)), load_ints(kShifts<kWidth, kFirst, kTo>.of));
  }
};
// Of 4 bits, two chunks.
template <>
struct StepCodes<4, 0> {
  const uint8_t* first;
  const uint8_t* second;

  template <int kOutput>
  QC_INLINE Ints index() const {
    const Ints both = set_pairs(load_int(first + 4 * kOutput), load_int(second + 4 * kOutput));
    return shift_each(both, load_ints(kPairShifts.of));
  }
};

// Columns of a panel that all tiles pass while they lie in the first cache. A tile has one line in
// four, which the processor does not foresee: what the next run has of it is asked for.
constexpr int64_t kRun = 256;
template <int kBits>
QC_INLINE void ask_for_next_run(const uint8_t* codes, int64_t stride) {
  const uint8_t* next = codes + kRun / chunk_columns(kBits) * stride;
  for (int i = 0; i < kTileChunkBytes<kBits>; i += 64) __builtin_prefetch(next + i);
}

// f(codes, columns) for each 16 columns of `chunks` chunks; of 4 bits the last may be 8 columns.
template <int kBits, class F>
QC_INLINE void each_step(const uint8_t* codes, int64_t stride, int64_t chunks, const F& f) {
  if constexpr (kBits == 4) {
    for (; chunks >= 2; chunks -= 2, codes += 2 * stride) {
      ask_for_next_run<4>(codes, stride);
      ask_for_next_run<4>(codes + stride, stride);
      f(StepCodes<4, 0>{codes, codes + stride}, kStep);
    }
    if (chunks) f(StepCodes<4, 0>{codes, codes}, kStep / 2);
  } else {
    for (; chunks > 0; --chunks, codes += stride) {
      ask_for_next_run<kBits>(codes, stride);
      unroll<chunk_columns(kBits) / kStep>(QC_UNROLLED(part) {
        f(StepCodes<kBits, part>{codes}, kStep);
      });
    }
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

// Outputs whose sums fit the registers together.
constexpr int kSums = kHasManySums ? kTile : 4;

// kSums outputs of a tile, from kFirst on, of a run of chunks times a row.
template <int kBits, int kFirst>
QC_INLINE void add_run(const uint8_t* codes, int64_t stride, int64_t chunks,
                       const TileLevels& levels, const float* x, Floats (&part)[kTile]) {
  Floats sums[kSums];
  unroll<kSums>(QC_UNROLLED(n) { sums[n] = set_floats(0); });
  each_step<kBits>(codes, stride, chunks, [&](const auto& step, int columns)
                       __attribute__((always_inline)) {
    const Ints found = load_ints(reinterpret_cast<const int32_t*>(x), columns);
    const Floats xs = lookup16_floats(as_floats(found), load_ints(kColumns<kBits>.of));
    unroll<kSums>(QC_UNROLLED(n) {
      const Floats table = load_floats(levels.of[kFirst + n]);
      sums[n] = fmadd(lookup16_floats(table, step.template index<kFirst + n>()), xs, sums[n]);
    });
    x += columns;
  });
  unroll<kSums>(QC_UNROLLED(n) { part[kFirst + n] = sums[n]; });
}
template <int kBits>
QC_INLINE Floats tile_run(const uint8_t* codes, int64_t stride, int64_t chunks,
                          const TileLevels& levels, const float* x) {
  Floats part[kTile];
  unroll<kTile / kSums>(QC_UNROLLED(i) {
    add_run<kBits, i * kSums>(codes, stride, chunks, levels, x, part);
  });
  return sums_of(part);
}

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
  each_step<kBits>(codes, stride, chunks, [&](const auto& codes16, int columns)
                       __attribute__((always_inline)) {
    Bytes v[4][4];
    unroll<4>(QC_UNROLLED(q) {
      unroll<4>(QC_UNROLLED(i) {
        const Floats table = load_floats(levels.of[4 * q + i]);
        v[q][i] = as_ints(lookup16_floats(table, codes16.template index<4 * q + i>()));
      });
      transpose_numbers(v[q]);
    });
    unroll<4>(QC_UNROLLED(i) {
      Bytes quarters[4] = {v[0][i], v[1][i], v[2][i], v[3][i]};
      transpose_quarters(quarters);
      unroll<4>(QC_UNROLLED(q) {
        constexpr int kColumn = column_of<kBits>(4 * q + i);
        if (kColumn < columns) store_bytes(out + kColumn * step, quarters[q]);
      });
    });
    out += columns * step;
  });
}

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
  if (a.num_rows <= 3) {
    for (int64_t row = 0; row < a.num_rows; ++row) levels_row<kBits>(a, row);
    return;
  }
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
