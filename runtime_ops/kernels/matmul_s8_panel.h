// SPDX-License-Identifier: Apache-2.0
// A panel of a product: its operands in whole vectors, and how sums begin and end, N10 ... N17.
#pragma once

#include "dyadic.h"
#include "simd.h"

namespace qcompile {
namespace {

// The panel's operands of the epilogue in whole vectors.
struct PanelOperands {
  alignas(64) int32_t correction[kPanel];
  alignas(64) int32_t bias_codes[kPanel];
  alignas(64) float multiplier[kPanel];
  alignas(64) float bias[kPanel];
};

struct Panel {
  const matmul_s8_n16k4_args* args;
  const Weight* weight;
  const uint8_t* stream;
  int tiles;
  int64_t outputs;
  int64_t block_bytes, code_bytes, last_code_bytes;  // of a full block, and of the last one's codes
  int32_t dot_offset;         // what `dot` subtracts from every code
  bool may_saturate = false;  // else the bias is part of the correction
  bool fits_ints = false;     // every sum times its multiplier is an int32
  PanelOperands operands;

  explicit Panel(const matmul_s8_n16k4_args& a) : args(&a), weight(a.weight) {
    stream = n16k4_panel(*weight, a.panel);
    tiles = n16k4_tiles(*weight, a.panel);
    block_bytes = n16k4_block_bytes(*weight, 0, tiles);
    code_bytes = n16k4_block_code_bytes(*weight, 0, tiles);
    last_code_bytes = n16k4_block_code_bytes(*weight, weight->num_blocks - 1, tiles);
    dot_offset = kIsSignedDot && is_wide(*weight) ? 128 : 0;
    const int64_t left = weight->N - a.panel * kPanel;
    outputs = left < kPanel ? left : kPanel;
    const Epilogue& e = a.epilogue;
    if (e.output == Output::kSum) return;
    if (e.output == Output::kFloat) {
      pad(e.bias, operands.bias);
      return;
    }
    pad(e.bias_codes, operands.bias_codes);
    pad(e.multiplier, operands.multiplier);
    for (int64_t n = 0; n < outputs; ++n) {
      operands.correction[n] = static_cast<int32_t>(e.correction[n]);
    }
    for (int64_t n = outputs; n < kPanel; ++n) operands.correction[n] = 0;
    fold_bias();
    find_fit();
  }

  // The panel's outputs of an array that may be absent, then 0.
  template <class T>
  void pad(const T* from, T* to) const {
    if (from && outputs == kPanel) {
      std::memcpy(to, from, kPanel * sizeof(T));  // a fixed size: stores, no call
      return;
    }
    std::memset(to, 0, kPanel * sizeof(T));
    // No loop that gcc would turn into masked loads: from a null pointer one costs 50 ns on Zen 4,
    // though its mask is empty.
    if (from) std::memcpy(to, from, static_cast<size_t>(outputs) * sizeof(T));
  }

  // The int32 sum of N11 saturates only where acc (|x - x_zero_point| <= 255) or bias is huge.
  void fold_bias() {
    int32_t low = 0, high = 0;
    for (int n = 0; n < kPanel; ++n) {
      low = operands.bias_codes[n] < low ? operands.bias_codes[n] : low;
      high = operands.bias_codes[n] > high ? operands.bias_codes[n] : high;
    }
    may_saturate =
        low <= -kHuge || high >= kHuge || weight->K * 255 * int64_t{weight->max_byte} >= kHuge;
    if (may_saturate) return;
    for (int n = 0; n < kPanel; ++n) operands.correction[n] += operands.bias_codes[n];
  }

  // A sum that does not saturate is an int32, and stays one times at most 1. The bits of a float
  // without its sign are in its order; NaN is above all numbers.
  void find_fit() {
    constexpr int32_t kOne = 0x3f800000;
    int32_t bits[kPanel], greatest = 0;
    std::memcpy(bits, operands.multiplier, sizeof bits);
    for (int n = 0; n < kPanel; ++n) {
      const int32_t magnitude = bits[n] & INT32_MAX;
      greatest = magnitude > greatest ? magnitude : greatest;
    }
    fits_ints = !may_saturate && greatest <= kOne;
  }
};

// Where the scales and zero points or special values of a block lie; `block`: its codes.
struct BlockParts {
  const uint8_t* scales;
  const uint8_t* zero_points;
  BlockParts(const Panel& p, const uint8_t* block, int64_t code_bytes)
      : scales(block + code_bytes),
        zero_points(n16k4_points(*p.weight, block, scales, p.tiles)) {}
};

// -zero_point * sum(x): what an accumulator starts at.
QC_INLINE Ints start(const Panel& p, const BlockParts& parts, int tile, int32_t x_sum) {
  if (!p.weight->has_zero_point) return set_ints((p.dot_offset - p.weight->offset) * x_sum);
  const Ints points = mul(widen(parts.zero_points + tile * kTile), set_ints(-x_sum));
  return kIsSignedDot ? add(points, set_ints(p.dot_offset * x_sum)) : points;
}

// Ends the sums of up to kRows rows from `row` and kTiles tiles from `tile`; FLOAT: N13.
template <int kRows, int kTiles>
QC_INLINE void finish_floats(const Panel& p, int64_t row, int64_t num_rows, int tile,
                             const Floats (&sums)[kRows][kTiles]) {
  const Epilogue& e = p.args->epilogue;
  const Floats low = set_floats(e.clip_min), high = set_floats(e.clip_max);
  unroll<kRows>(QC_UNROLLED(r) {
    if (r >= num_rows) return;
    float* y = static_cast<float*>(p.args->y) + (row + r) * p.args->y_stride;
    const Floats x_scale = set_floats(e.x_scales[row + r]);
    unroll<kTiles>(QC_UNROLLED(t) {
      const int n = (tile + t) * kTile;
      const Floats v = fmadd(x_scale, sums[r][t], load_floats(p.operands.bias + n));
      store_floats(y + n, min(high, max(low, v)), p.outputs - n);
    });
  });
}

// Codes of a sum that does not saturate, from sums, as many of a row at once as there are tiles.
template <int kRows, int kTiles>
void finish_codes(const Panel& p, int64_t row, int64_t num_rows, int tile,
                  const Ints (&sums)[kRows][kTiles]);
#ifdef QC_HAS_PACK
// kIsFull: rows and outputs are there that fill the block. A condition at every row would cost
// a fifth of a product with 64 columns.
template <bool kFitsInts, bool kIsFull, int kRows, int kTiles>
QC_INLINE void pack_rows(const Panel& p, int64_t row, int64_t num_rows, int tile,
                         const Ints (&sums)[kRows][kTiles]) {
  const Epilogue& e = p.args->epilogue;
  const Requantizer requantize(e.y_zero_point, e.y_min, e.y_max);
  const CodePacker pack(e.y_zero_point, e.y_min, e.y_max);
  const int64_t stride = p.args->y_stride, left = p.outputs - tile * kTile;
  constexpr int64_t kWidth = kTiles * kTile;
  uint8_t* const y = static_cast<uint8_t*>(p.args->y) + row * stride + tile * kTile;
  Ints correction[kTiles];
  Floats multiplier[kTiles];
  unroll<kTiles>(QC_UNROLLED(t) {
    correction[t] = load_ints(p.operands.correction + (tile + t) * kTile);
    multiplier[t] = load_floats(p.operands.multiplier + (tile + t) * kTile);
  });
  unroll<kRows>(QC_UNROLLED(r) {
    if (!kIsFull && r >= num_rows) return;
    Ints codes[4];
    unroll<4>(QC_UNROLLED(i) {
      constexpr int t = i < kTiles ? i : 0;  // what is packed in vain costs nothing
      const Ints total = add(sums[r][t], correction[t]);
      codes[i] = kFitsInts ? round_to_ints(mul(to_floats(total), multiplier[t]))
                           : requantize.rounded(total, multiplier[t]);
    });
    const Bytes packed = pack(codes);
    if constexpr (kIsFull) {
      store_first<kWidth>(y + r * stride, packed);
    } else {
      store_bytes(y + r * stride, packed, left < kWidth ? left : kWidth);
    }
  });
}
template <int kRows, int kTiles>
QC_INLINE void finish_codes(const Panel& p, int64_t row, int64_t num_rows, int tile,
                            const Ints (&sums)[kRows][kTiles]) {
  const bool is_full = num_rows >= kRows && p.outputs >= (tile + kTiles) * kTile;
  if (!is_full) return pack_rows<false, false>(p, row, num_rows, tile, sums);
  p.fits_ints ? pack_rows<true, true>(p, row, num_rows, tile, sums)
              : pack_rows<false, true>(p, row, num_rows, tile, sums);
}
#endif

template <int kRows, int kTiles>
QC_INLINE void finish_ints(const Panel& p, int64_t row, int64_t num_rows, int tile,
                           const Ints (&sums)[kRows][kTiles]) {
  const Epilogue& e = p.args->epilogue;
  const Requantizer requantize(e.y_zero_point, e.y_min, e.y_max);
  // Copies: stores of uint8_t may alias anything, and would make every use a load.
  const bool is_sum = e.output == Output::kSum, is_codes = e.output == Output::kRequantized;
  const bool may_saturate = p.may_saturate, is_integer = is_dyadic(e.output);
  const int64_t outputs = p.outputs, stride = p.args->y_stride;
  uint8_t* const codes = static_cast<uint8_t*>(p.args->y);
  if constexpr (kHasPack) {
    if (is_codes && !may_saturate) return finish_codes<kRows>(p, row, num_rows, tile, sums);
  }
  if (is_codes && !may_saturate && num_rows >= kRows && outputs >= (tile + kTiles) * kTile) {
    unroll<kTiles>(QC_UNROLLED(t) {
      const int n = (tile + t) * kTile;
      const Ints correction = load_ints(p.operands.correction + n);
      const Floats multiplier = load_floats(p.operands.multiplier + n);
      unroll<kRows>(QC_UNROLLED(r) {
        const Ints code = requantize(add(sums[r][t], correction), multiplier);
        store_low_bytes(codes + (row + r) * stride + n, code, kTile);
      });
    });
    return;
  }
  unroll<kRows>(QC_UNROLLED(r) {
    if (r >= num_rows) return;
    const int64_t at = (row + r) * stride;
    unroll<kTiles>(QC_UNROLLED(t) {
      const int n = (tile + t) * kTile;
      if (is_sum) return store_ints(static_cast<int32_t*>(p.args->y) + at + n, sums[r][t], outputs - n);
      Ints total = add(sums[r][t], load_ints(p.operands.correction + n));
      if (may_saturate) total = add_saturating(total, load_ints(p.operands.bias_codes + n));
      if (is_integer) {
        alignas(64) int32_t totals[kTile];
        store_ints(totals, total, kTile);
        const int64_t left = outputs - n < kTile ? outputs - n : kTile;
        return finish_dyadic(totals, left, e, n, p.args->y, at + n);
      }
      if (!is_codes) {
        const Floats v = mul(to_floats(total), load_floats(p.operands.multiplier + n));
        const Floats low = set_floats(e.clip_min), high = set_floats(e.clip_max);
        float* y = static_cast<float*>(p.args->y) + at + n;
        return store_floats(y, min(high, max(low, v)), outputs - n);
      }
      const Ints code = requantize(total, load_floats(p.operands.multiplier + n));
      store_low_bytes(codes + at + n, code, outputs - n);
    });
  });
}

// Groups of 4 whose sums of pairs, at most 2 · max_byte · 128 each, fit 16 bits.
inline int64_t short_groups(const Weight& w) {
  return 32767 / (256 * (w.max_byte > 1 ? w.max_byte : 1));
}

// The rows of the next register block, with `left` to do: full, half or 1. Two halves where a full
// one and a half would do more in vain.
QC_INLINE int rows_of_block(int64_t left, int full, int half) {
  if (left > half && (left <= full || left > 2 * half)) return full;
  return left > 1 ? half : 1;
}

// Pointers to kRows rows from `row`; rows beyond the last repeat it and are not stored.
template <int kRows>
QC_INLINE void take_rows(const matmul_s8_n16k4_args& a, int64_t row, const int8_t* (&x)[kRows],
                         const int32_t* (&x_sums)[kRows]) {
  const int64_t last = a.num_rows - 1, num_blocks = a.weight->num_blocks;
  unroll<kRows>(QC_UNROLLED(r) {
    const int64_t m = row + r < last ? row + r : last;
    x[r] = a.x_rows[m];
    x_sums[r] = a.x_sums + m * num_blocks;
  });
}

}  // namespace
}  // namespace qcompile
