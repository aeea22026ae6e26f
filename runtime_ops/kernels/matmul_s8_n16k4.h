// SPDX-License-Identifier: Apache-2.0
// Signed 8-bit rows times a panel of unsigned codes, N10 ... N17: acc = sum(u * x) started at
// -zero_point * sum(x). A few rows decode the packed stream on the way (fused); more rows unpack
// the panel to bytes once and run a register-blocked product over it.
// QC_ISA_NAME(kernel) is kernel__<isa>.
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
  int32_t dot_offset;         // what `dot` subtracts from every code
  bool may_saturate = false;  // else the bias is part of the correction
  PanelOperands operands;

  explicit Panel(const matmul_s8_n16k4_args& a) : args(&a), weight(a.weight) {
    stream = n16k4_panel(*weight, a.panel);
    tiles = n16k4_tiles(*weight, a.panel);
    dot_offset = kIsSignedDot && (weight->bits == 8 || weight->byte_table) ? 128 : 0;
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
    for (int n = 0; n < tiles * kTile; ++n) {
      operands.correction[n] = n < outputs ? static_cast<int32_t>(e.correction[n]) : 0;
    }
    fold_bias();
  }

  // The panel's outputs of an array that may be absent, then 0.
  template <class T>
  void pad(const T* from, T* to) const {
    const int64_t count = from ? outputs : 0;
    if (count == kPanel) {
      std::memcpy(to, from, kPanel * sizeof(T));  // a fixed size: stores, no call
      return;
    }
    for (int64_t n = 0; n < kPanel; ++n) to[n] = n < count ? from[n] : T{0};
  }

  // The int32 sum of N11 saturates only where acc (|x - x_zero_point| <= 255) or bias is huge.
  void fold_bias() {
    constexpr int32_t kHuge = 1 << 30;
    may_saturate = weight->K * 255 * int64_t{weight->max_byte} >= kHuge;
    for (int n = 0; n < tiles * kTile; ++n) {
      may_saturate |= operands.bias_codes[n] >= kHuge || operands.bias_codes[n] <= -kHuge;
    }
    if (may_saturate) return;
    for (int n = 0; n < tiles * kTile; ++n) operands.correction[n] += operands.bias_codes[n];
  }
};

// Where a block's scales and zero points lie.
struct BlockParts {
  const uint8_t* scales;
  const uint8_t* zero_points;
  BlockParts(const Panel& p, const uint8_t* block, int64_t code_bytes)
      : scales(block + code_bytes),
        zero_points(scales + p.tiles * kTile * p.weight->scale_bytes) {}
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

// ---- fused: decode on the way ----

template <int kBits, bool kIsTable, bool kIsWide, int kRows, int kTiles>
QC_INLINE void fused_block(const uint8_t* codes, int64_t num_chunks, Bytes table,
                           const int8_t* const (&x)[kRows], int64_t column,
                           Ints (&acc)[kRows][kTiles]) {
  constexpr int kChains = kRows == 1 ? 2 : 1;  // independent sums hide the latency of dot
  constexpr int kChunk = chunk_columns(kBits), kBytes = kTileChunkBytes<kBits>;
  Ints other[kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) { other[r][t] = set_ints(0); });
  });
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
        unroll<kRows>(QC_UNROLLED(r) {
          Ints& sum = g % kChains ? other[r][t] : acc[r][t];
          sum = dot<kIsWide>(sum, u, xs[r]);
        });
      });
    });
  }
  if constexpr (kChains > 1) {
    unroll<kTiles>(QC_UNROLLED(t) { acc[0][t] = add(acc[0][t], other[0][t]); });
  }
}

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
  const uint8_t* block = p.stream;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const int64_t columns = w.padded_columns_of(b);
    const BlockParts parts(p, block, kTiles * 2 * columns * kBits);
    Ints acc[kRows][kTiles];
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) { acc[r][t] = start(p, parts, t, x_sums[r][b]); });
    });
    fused_block<kBits, kIsTable, kIsWide, kRows, kTiles>(block, columns / chunk_columns(kBits),
                                                         table, x, b * w.block_size, acc);
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
template <int kBits, bool kIsTable>
void fused_panel(const Panel& p) {
  constexpr bool kIsWide = !kHasDot && (kBits == 8 || kIsTable);
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

// ---- unpacked: a panel of bytes, then a register-blocked product ----

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

template <int kBits, bool kIsTable>
void unpack_panel(const Panel& p, uint8_t* out) {
  const Weight& w = *p.weight;
  Bytes tables[16];
  if (kIsTable) {
    alignas(64) uint8_t entries[256] = {};
    std::memcpy(entries, w.byte_table, size_t{1} << kBits);
    for (int i = 0; i < 16; ++i) tables[i] = repeat16(entries + 16 * i);
  }
  const uint8_t* block = p.stream;
  constexpr int kGroups = kGroupsOfChunk<kBits>;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const uint8_t* codes = block;
    for (int64_t c = 0; c < w.padded_columns_of(b) / chunk_columns(kBits); ++c) {
      for (int t = 0; t < p.tiles; ++t, codes += kTileChunkBytes<kBits>) {
        unroll<kGroups>(QC_UNROLLED(g) {
          Bytes u = decode_group<kBits, g>(codes);
          if constexpr (kIsTable) u = lookup<kBits>(tables, u);
          store_bytes(out + (g * p.tiles + t) * 64, u);
        });
      }
      out += kGroups * p.tiles * 64;
    }
    block += n16k4_block_bytes(w, b, p.tiles);
  }
}

template <bool kIsWide, int kRows, int kTiles>
QC_INLINE void product_block(const uint8_t* codes, int64_t step, const Run* run, const Run* end,
                             const int8_t* const (&x)[kRows], Ints (&acc)[kRows][kTiles]) {
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

template <bool kIsWide, int kRows, int kTiles, bool kIsFloat>
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
  const int64_t block_bytes = n16k4_block_bytes(w, 0, p.tiles);
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const BlockParts parts(p, p.stream + b * block_bytes, n16k4_block_code_bytes(w, b, p.tiles));
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        const Ints first = start(p, parts, tile + t, x_sums[r][b]);
        acc[r][t] = kIsFloat ? first : add(acc[r][t], first);
      });
    });
    product_block<kIsWide, kRows, kTiles>(
        unpacked.codes + b * unpacked.block_bytes + tile * 64, p.tiles * 64,
        a.runs + (b ? a.run_ends[b - 1] : 0), a.runs + a.run_ends[b], x, acc);
    if (!kIsFloat) continue;
    unroll<kTiles>(QC_UNROLLED(t) {
      const uint8_t* scales = parts.scales + (tile + t) * kTile * w.scale_bytes;
      const Floats scale = load_scales(scales, w.scale_bytes);
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

template <bool kIsWide, int kTiles, bool kIsFloat>
void product_tiles(const Panel& p, const Unpacked& unpacked, int tile) {
  constexpr int kFull = kRowsOfTiles[kTiles], kHalf = kFull / 2;
  for (int64_t row = 0; row < p.args->num_rows;) {
    const int64_t left = p.args->num_rows - row;
    if (left > kHalf) {
      product_rows<kIsWide, kFull, kTiles, kIsFloat>(p, unpacked, row, tile);
      row += kFull;
    } else if (left > 1) {
      product_rows<kIsWide, kHalf, kTiles, kIsFloat>(p, unpacked, row, tile);
      row += kHalf;
    } else {
      product_rows<kIsWide, 1, kTiles, kIsFloat>(p, unpacked, row, tile);
      row += 1;
    }
  }
}

template <bool kIsWide, bool kIsFloat>
void product_panel(const Panel& p, const Unpacked& unpacked) {
  for (int tile = 0; tile < p.tiles;) {
    const int left = p.tiles - tile, taken = left < kMaxTiles ? left : kMaxTiles;
    if (taken == 1) product_tiles<kIsWide, 1, kIsFloat>(p, unpacked, tile);
    if (taken == 2) product_tiles<kIsWide, 2, kIsFloat>(p, unpacked, tile);
    if constexpr (kMaxTiles > 2) {
      if (taken == 3) product_tiles<kIsWide, 3, kIsFloat>(p, unpacked, tile);
      if (taken == 4) product_tiles<kIsWide, 4, kIsFloat>(p, unpacked, tile);
    }
    tile += taken;
  }
}

template <int kBits, bool kIsTable>
void run_panel(const Panel& p) {
  const matmul_s8_n16k4_args& a = *p.args;
  if constexpr (kBits <= 4 || !kIsTable) {
    const bool is_fused = a.is_contiguous && a.num_rows <= 2 * kFusedRowsAtOnce;
    if (is_fused && p.tiles == kPanelTiles) return fused_panel<kBits, kIsTable>(p);
  }
  // Bytes are their own unpacked form; they lie in the stream between the blocks' scales.
  constexpr bool kIsInPlace = kBits == 8 && !kIsTable;
  Unpacked unpacked{p.stream, n16k4_block_bytes(*p.weight, 0, p.tiles)};
  if (!kIsInPlace) {
    unpack_panel<kBits, kIsTable>(p, a.scratch);
    unpacked = {a.scratch, p.weight->padded_columns_of(0) * p.tiles * kTile};
  }
  const bool is_float = a.epilogue.output == Output::kFloat;
  if constexpr (!kHasDot && (kBits == 8 || kIsTable)) {
    is_float ? product_panel<true, true>(p, unpacked) : product_panel<true, false>(p, unpacked);
  } else {
    is_float ? product_panel<false, true>(p, unpacked) : product_panel<false, false>(p, unpacked);
  }
}

}  // namespace

void QC_ISA_NAME(matmul_s8_n16k4)(matmul_s8_n16k4_args& a) {
  const Panel p(a);
  const bool is_table = a.weight->byte_table != nullptr;
  switch (a.weight->bits) {
    case 1: return is_table ? run_panel<1, true>(p) : run_panel<1, false>(p);
    case 2: return is_table ? run_panel<2, true>(p) : run_panel<2, false>(p);
    case 3: return is_table ? run_panel<3, true>(p) : run_panel<3, false>(p);
    case 4: return is_table ? run_panel<4, true>(p) : run_panel<4, false>(p);
    case 5: return is_table ? run_panel<5, true>(p) : run_panel<5, false>(p);
    case 6: return is_table ? run_panel<6, true>(p) : run_panel<6, false>(p);
    case 7: return is_table ? run_panel<7, true>(p) : run_panel<7, false>(p);
    default: return is_table ? run_panel<8, true>(p) : run_panel<8, false>(p);
  }
}

}  // namespace qcompile
