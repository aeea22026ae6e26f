// SPDX-License-Identifier: Apache-2.0
// Depthwise taps by products of four bytes: 64 channels of four rows of the map are interleaved
// once for each column, and every pixel whose window holds the column multiplies it.
// QC_ISA_NAME as in elementwise.h.
#include "kernels.h"
#include "simd.h"

namespace qcompile {
namespace {

constexpr int64_t kQuadBytes = 4 * 64;  // of 64 channels

// Bytes of four rows → vectors of lanes of four rows: vector v has channels 16 l + 4 v + i, for
// which CodePacker::lanes() has the order of the channels again.
QC_INLINE void interleave(const Bytes (&rows)[4], uint8_t* out) {
  const Bytes low[2] = {zip_low8(rows[0], rows[1]), zip_low8(rows[2], rows[3])};
  const Bytes high[2] = {zip_high8(rows[0], rows[1]), zip_high8(rows[2], rows[3])};
  store_bytes(out, zip_low16(low[0], low[1]));
  store_bytes(out + 64, zip_high16(low[0], low[1]));
  store_bytes(out + 128, zip_low16(high[0], high[1]));
  store_bytes(out + 192, zip_high16(high[0], high[1]));
}

// [count][quads of rows][4][64] of 64 channels at x, no longer centred.
QC_INLINE void interleave_columns(const depthwise_u8_quads_args& a, const int8_t* x, int64_t count) {
  const Bytes centre = set_bytes(128);
  uint8_t* out = a.scratch;
  for (int64_t column = 0; column < count; ++column, x += a.column_stride) {
    const int8_t* at = x;
    for (int64_t left = a.kernel_h; left > 0; left -= 4, out += kQuadBytes) {
      Bytes rows[4];
      unroll<4>(QC_UNROLLED(i) {
        rows[i] = i < left ? bit_xor(load_bytes(at + i * a.row_stride), centre) : set_bytes(0);
      });
      interleave(rows, out);
      at += 4 * a.row_stride;
    }
  }
}

template <bool kIsFull, int kPixels>
QC_INLINE void quad_pixels(const depthwise_u8_quads_args& a, int64_t group, int64_t pixel,
                           uint8_t* y) {
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
  const float* multiplier = a.multiplier + group * 64;
  const int64_t left = a.num_channels - group * 64;
  unroll<kPixels>(QC_UNROLLED(p) {
    Ints codes[4];
    unroll<4>(QC_UNROLLED(v) {
      codes[v] = round_to_ints(mul(to_floats(acc[p][v]), load_floats(multiplier + 16 * v)));
    });
    uint8_t* const to = y + (pixel + p) * a.num_channels;
    const Bytes packed = pack.lanes(codes);
    if constexpr (kIsFull) {
      store_bytes(to, packed);
    } else {
      store_bytes(to, packed, left);
    }
  });
}

template <bool kIsFull>
QC_INLINE void quad_strip(const depthwise_u8_quads_args& a, int64_t group, int64_t count,
                          uint8_t* y) {
  int64_t pixel = 0;
  for (; pixel + 4 <= count; pixel += 4) quad_pixels<kIsFull, 4>(a, group, pixel, y);
  for (; pixel + 2 <= count; pixel += 2) quad_pixels<kIsFull, 2>(a, group, pixel, y);
  if (pixel < count) quad_pixels<kIsFull, 1>(a, group, pixel, y);
}

}  // namespace

void QC_ISA_NAME(depthwise_u8_quads)(depthwise_u8_quads_args& a) {
  for (int64_t first = 0; first < a.num_pixels; first += kQuadStrip) {
    const int64_t rest = a.num_pixels - first, count = rest < kQuadStrip ? rest : kQuadStrip;
    const int64_t columns = (count - 1) * a.pixel_columns + (a.kernel_w - 1) * a.tap_columns + 1;
    const int8_t* x = a.x + first * a.pixel_columns * a.column_stride;
    for (int64_t group = 0; group * 64 < a.num_channels; ++group) {
      interleave_columns(a, x + group * 64, columns);
      uint8_t* y = a.y + first * a.num_channels + group * 64;
      const bool is_full = a.num_channels - group * 64 >= 64;
      is_full ? quad_strip<true>(a, group, count, y) : quad_strip<false>(a, group, count, y);
    }
  }
}

}  // namespace qcompile
