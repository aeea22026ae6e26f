// SPDX-License-Identifier: Apache-2.0
// Depthwise taps by products of four bytes: 64 channels of four rows of the map are interleaved
// once for each column, and every pixel whose window holds the column multiplies it. With 3 x 3
// neighbouring taps the column stays in registers, else columns are written to scratch memory.
// QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

constexpr int64_t kQuadBytes = 4 * 64;  // of 64 channels

// Bytes of up to four rows at x, no longer centred, → vectors of lanes of four rows: vector v has channels
// 16 l + 4 v + i, for which CodePacker::lanes() has the order of the channels again.
QC_INLINE void interleave(const int8_t* x, int64_t row_stride, int64_t num_rows, Bytes (&out)[4]) {
  const Bytes centre = set_bytes(128);
  Bytes rows[4];
  unroll<4>(QC_UNROLLED(i) {
    rows[i] = i < num_rows ? bit_xor(load_bytes(x + i * row_stride), centre) : set_bytes(0);
  });
  const Bytes low[2] = {zip_low8(rows[0], rows[1]), zip_low8(rows[2], rows[3])};
  const Bytes high[2] = {zip_high8(rows[0], rows[1]), zip_high8(rows[2], rows[3])};
  out[0] = zip_low16(low[0], low[1]);
  out[1] = zip_high16(low[0], low[1]);
  out[2] = zip_low16(high[0], high[1]);
  out[3] = zip_high16(high[0], high[1]);
}

// [count][quads of rows][4][64] of 64 channels at x.
QC_INLINE void interleave_columns(const depthwise_u8_quads_args& a, const int8_t* x, int64_t count) {
  uint8_t* out = a.scratch;
  for (int64_t column = 0; column < count; ++column, x += a.column_stride) {
    const int8_t* at = x;
    for (int64_t left = a.kernel_h; left > 0; left -= 4, out += kQuadBytes) {
      Bytes quads[4];
      interleave(at, a.row_stride, left, quads);
      unroll<4>(QC_UNROLLED(v) { store_bytes(out + 64 * v, quads[v]); });
      at += 4 * a.row_stride;
    }
  }
}

// The codes of 64 channels of a pixel from their sums.
template <bool kIsFull>
QC_INLINE void store_pixel(const depthwise_u8_quads_args& a, const CodePacker& pack, int64_t group,
                           int64_t pixel, const Ints (&acc)[4]) {
  const float* multiplier = a.multiplier + group * 64;
  Ints codes[4];
  unroll<4>(QC_UNROLLED(v) {
    codes[v] = round_to_ints(mul(to_floats(acc[v]), load_floats(multiplier + 16 * v)));
  });
  uint8_t* const y = a.y + pixel * a.num_channels + group * 64;
  const Bytes packed = pack.lanes(codes);
  if constexpr (kIsFull) {
    store_bytes(y, packed);
  } else {
    store_bytes(y, packed, a.num_channels - group * 64);
  }
}

// A line of one group of 64 channels with 3 x 3 neighbouring taps: each column is multiplied for the
// pixels that hold it, which take turns in kSlots sums.
template <bool kIsFull, int kStep>
QC_INLINE void slide(const depthwise_u8_quads_args& a, int64_t group) {
  constexpr int kTaps = 3, kSlots = (kTaps + kStep - 1) / kStep, kTurn = kSlots * kStep;
  const int64_t groups = ceil_div(a.num_channels, 64);
  const int64_t columns = (a.num_pixels - 1) * kStep + kTaps;
  const int8_t* x = a.x + group * 64;
  const CodePacker pack(a.y_zero_point, a.y_min, a.y_max);
  Bytes taps[kTaps][4];
  Ints acc[kSlots][4];
  unroll<kTaps>(QC_UNROLLED(j) {
    unroll<4>(QC_UNROLLED(v) {
      taps[j][v] = load_bytes(a.quads + (j * groups + group) * kQuadBytes + 64 * v);
    });
  });
  unroll<kSlots>(QC_UNROLLED(s) {
    unroll<4>(QC_UNROLLED(v) { acc[s][v] = set_ints(0); });
  });
  for (int64_t first = 0; first < columns; first += kTurn) {
    unroll<kTurn>(QC_UNROLLED(i) {
      if (first + i >= columns) return;
      Bytes column[4];
      interleave(x, a.row_stride, kTaps, column);
      x += a.column_stride;
      unroll<kTaps>(QC_UNROLLED(j) {
        constexpr int at = i - j + kTurn, slot = at / kStep % kSlots;
        if constexpr (at % kStep == 0) {
          unroll<4>(QC_UNROLLED(v) {
            if constexpr (j == 0) acc[slot][v] = load_ints(a.correction + group * 64 + 16 * v);
            acc[slot][v] = dot<false>(acc[slot][v], column[v], taps[j][v]);
          });
          if (j == kTaps - 1 && first + i >= j) {
            store_pixel<kIsFull>(a, pack, group, (first + i - j) / kStep, acc[slot]);
          }
        }
      });
    });
  }
}

template <bool kIsFull, int kPixels>
QC_INLINE void quad_pixels(const depthwise_u8_quads_args& a, int64_t group, int64_t first,
                           int64_t pixel) {
  const int64_t quads = ceil_div(a.kernel_h, 4), column_bytes = quads * kQuadBytes;
  const int64_t step = a.pixel_columns * column_bytes;
  const int64_t groups = ceil_div(a.num_channels, 64);
  const uint8_t* x = a.scratch + pixel * step;
  const int8_t* w = a.quads + group * kQuadBytes;
  Ints acc[kPixels][4];
  unroll<4>(QC_UNROLLED(v) {
    const Ints correction = load_ints(a.correction + group * 64 + 16 * v);
    unroll<kPixels>(QC_UNROLLED(p) { acc[p][v] = correction; });
  });
  for (int64_t j = 0; j < a.kernel_w; ++j, x += a.tap_columns * column_bytes) {
    for (int64_t q = 0; q < quads; ++q, w += groups * kQuadBytes) {
      Bytes taps[4];
      unroll<4>(QC_UNROLLED(v) { taps[v] = load_bytes(w + 64 * v); });
      unroll<kPixels>(QC_UNROLLED(p) {
        const uint8_t* column = x + p * step + q * kQuadBytes;
        unroll<4>(QC_UNROLLED(v) {
          acc[p][v] = dot<false>(acc[p][v], load_bytes(column + 64 * v), taps[v]);
        });
      });
    }
  }
  const CodePacker pack(a.y_zero_point, a.y_min, a.y_max);
  unroll<kPixels>(QC_UNROLLED(p) {
    store_pixel<kIsFull>(a, pack, group, first + pixel + p, acc[p]);
  });
}

template <bool kIsFull>
QC_INLINE void quad_strip(const depthwise_u8_quads_args& a, int64_t group, int64_t first,
                          int64_t count) {
  int64_t pixel = 0;
  for (; pixel + 4 <= count; pixel += 4) quad_pixels<kIsFull, 4>(a, group, first, pixel);
  for (; pixel + 2 <= count; pixel += 2) quad_pixels<kIsFull, 2>(a, group, first, pixel);
  if (pixel < count) quad_pixels<kIsFull, 1>(a, group, first, pixel);
}

// All of a line, by strips that fit the scratch memory.
void quad_line(const depthwise_u8_quads_args& a) {
  for (int64_t first = 0; first < a.num_pixels; first += kQuadStrip) {
    const int64_t rest = a.num_pixels - first, count = rest < kQuadStrip ? rest : kQuadStrip;
    const int64_t columns = (count - 1) * a.pixel_columns + (a.kernel_w - 1) * a.tap_columns + 1;
    const int8_t* x = a.x + first * a.pixel_columns * a.column_stride;
    for (int64_t group = 0; group * 64 < a.num_channels; ++group) {
      interleave_columns(a, x + group * 64, columns);
      const bool is_full = a.num_channels - group * 64 >= 64;
      is_full ? quad_strip<true>(a, group, first, count) : quad_strip<false>(a, group, first, count);
    }
  }
}

// The lower half of each of four vectors, twice.
template <class T>
void repeat_halves(const T* from, T* to) {
  for (int v = 0; v < 4; ++v) {
    std::memcpy(to + v * 64 / sizeof(T), from + v * 64 / sizeof(T), 32);
    std::memcpy(to + (v * 64 + 32) / sizeof(T), from + v * 64 / sizeof(T), 32);
  }
}

// 32 channels at stride 1: two pixels side by side are one of 64 channels at stride 2, whose columns
// lie 32 bytes apart.
void slide_pairs(depthwise_u8_quads_args& a) {
  alignas(64) int8_t quads[3 * kQuadBytes];
  alignas(64) int32_t correction[64];
  alignas(64) float multiplier[64];
  for (int j = 0; j < 3; ++j) repeat_halves(a.quads + j * kQuadBytes, quads + j * kQuadBytes);
  repeat_halves(a.correction, correction);
  repeat_halves(a.multiplier, multiplier);
  const int64_t pairs = a.num_pixels / 2;
  if (pairs > 0) {
    depthwise_u8_quads_args both = a;
    both.num_pixels = pairs;
    both.num_channels = 64;
    both.quads = quads;
    both.correction = correction;
    both.multiplier = multiplier;
    slide<true, 2>(both, 0);
  }
  if (a.num_pixels % 2 == 0) return;
  a.x += 2 * pairs * a.column_stride;
  a.y += 2 * pairs * a.num_channels;
  a.num_pixels = 1;
  slide<false, 1>(a, 0);
}

template <int kStep>
void slide_line(const depthwise_u8_quads_args& a) {
  for (int64_t group = 0; group * 64 < a.num_channels; ++group) {
    const bool is_full = a.num_channels - group * 64 >= 64;
    is_full ? slide<true, kStep>(a, group) : slide<false, kStep>(a, group);
  }
}

}  // namespace

void QC_ISA_NAME(depthwise_u8_quads)(depthwise_u8_quads_args& a) {
  const bool is_square = a.kernel_h == 3 && a.kernel_w == 3 && a.tap_columns == 1;
  const bool is_half = a.num_channels == 32 && a.column_stride == 32;
  if (is_square && a.pixel_columns == 1 && is_half) return slide_pairs(a);
  if (is_square && a.pixel_columns == 1) return slide_line<1>(a);
  if (is_square && a.pixel_columns == 2) return slide_line<2>(a);
  quad_line(a);
}

}  // namespace qcompile
