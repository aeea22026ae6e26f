// SPDX-License-Identifier: Apache-2.0
// Products whose codes are looked up in more than 16 bytes (docs/kernels.md): tables beyond int8 as
// two planes of bytes, tables of 5 to 8 bits by permutes of bytes, special values of BitMoD. N10 ... N17.
// QC_ISA_NAME(kernel) is kernel__<isa>.
#include "matmul_s8_crossed.h"
#include "matmul_s8_fused.h"
#include "matmul_s8_table_panel.h"
#include "matmul_s8_unpacked.h"

namespace qcompile {
namespace {

#ifdef QC_HAS_BYTE_PERMUTE
constexpr bool kHasBytePermute = true;
#else
constexpr bool kHasBytePermute = false;
#endif
#ifdef QC_HAS_CROSSED
constexpr bool kHasCrossed = true;
#else
constexpr bool kHasCrossed = false;
#endif

// A table of 2^kBits bytes in registers.
template <int kBits>
struct Lookup {
  static constexpr bool kIsWhole = kHasBytePermute && kBits > 4;  // 64 bytes a register
  static constexpr int kParts = kBits <= 4 ? 1 : kIsWhole ? (kBits < 7 ? 1 : 1 << (kBits - 6))
                                                          : 1 << (kBits - 4);
  Bytes parts[kParts];

  explicit Lookup(const uint8_t* table) {
    alignas(64) uint8_t entries[256] = {};
    if (table) std::memcpy(entries, table, size_t{1} << kBits);
    for (int i = 0; i < kParts; ++i) {
      parts[i] = kIsWhole ? load_bytes(entries + 64 * i) : repeat16(entries + 16 * i);
    }
  }
  QC_INLINE Bytes operator()(Bytes u) const {
#ifdef QC_HAS_BYTE_PERMUTE
    if constexpr (kBits == 5 || kBits == 6) return lookup64(parts[0], u);
    if constexpr (kBits == 7) return lookup128(parts[0], parts[1], u);
    if constexpr (kBits == 8) return lookup256(parts, u);
#endif
    if constexpr (!kIsWhole) return lookup<kBits>(parts, u);
    return u;
  }
};

// The special values of a tile as bytes of its four columns.
QC_INLINE Bytes special_bytes(const Weight& w, const uint8_t* bytes) {
  const Ints values = add(widen(reinterpret_cast<const int8_t*>(bytes)), set_ints(w.offset));
  return as_bytes(mul(values, set_ints(0x01010101)));
}

// kPlanes bytes of every code; where kHasSpecial, an output's own of one of them.
template <int kBits_, int kPlanes_, bool kHasSpecial>
struct Planes {
  static constexpr int kBits = kBits_, kPlanes = kPlanes_;
  Lookup<kBits> low, high;
  int special_code;

  explicit Planes(const Weight& w)
      : low(w.byte_table), high(w.high_table), special_code(w.special_code) {}
  // What `of` needs of every tile of a block.
  template <int kTiles>
  QC_INLINE void read_block(const Weight& w, const BlockParts& parts,
                            Bytes (&special)[kTiles]) const {
    unroll<kTiles>(QC_UNROLLED(t) {
      special[t] = kHasSpecial ? special_bytes(w, parts.zero_points + t * kTile) : set_bytes(0);
    });
  }
  template <int kRows>
  QC_INLINE auto codes(const Bytes*) const {
    return Codes<kBits, false>();
  }
  template <int kPlane>
  QC_INLINE Bytes of(Bytes u, Bytes special) const {
    const Bytes v = kPlane == 0 ? low(u) : high(u);
    return kHasSpecial ? replace_where(v, u, special_code, special) : v;
  }
};

#ifdef QC_HAS_LOOSE_INDEX
constexpr bool kHasLooseIndex = true;

// Indices of 64 bytes: a code of 3 or 4 bits, and in bits 4 and 5 the number of the special value
// that the output has in this block (Weight::special_places), or, where there are none, parts of
// other codes. A code of 4 bits is bits 0 ... 3. One of 3 bits takes the vector of upper bits as it
// lies, or shifted by 4, so it has a table for each slot of the vectors of two-bit fields:
//   slot 0, 1: bits 2 and 3 are the lower two bits of the code, bit 0 or 1 is the upper one
//   slot 2, 3: bits 0 and 1 are the lower two bits of the code, bit 2 or 3 is the upper one
// The bit that is left over is another group's, and changes nothing in the table.
struct SlotIndices {
  alignas(64) uint8_t of_slot[4][64];
};
constexpr SlotIndices slot_indices() {
  SlotIndices all{};
  for (int slot = 0; slot < 4; ++slot) {
    for (int i = 0; i < 64; ++i) {
      const int lower = (slot < 2 ? i >> 2 : i) & 3, upper = i >> slot & 1;
      all.of_slot[slot][i] = static_cast<uint8_t>((i & 48) | upper << 2 | lower);
    }
  }
  return all;
}
constexpr SlotIndices kSlotIndices = slot_indices();

// kIsHeld: vectors stay in registers over their groups. Zen 4 loads 64 bytes a cycle, and a load
// for every shift would be a third of its time; of several rows sums need the registers.
template <int kBits, bool kHasSpecial, bool kIsHeld>
struct IndexedCodes {
  static_assert(kBits == 3 || (kBits == 4 && kHasSpecial));
  const Bytes* tables;
  const Bytes* numbers;  // of every tile
  static QC_INLINE Bytes vector(const uint8_t* at) {
    return kIsHeld ? held(load_bytes(at)) : load_bytes(at);
  }
  template <int kGroupIndex, int kTile>
  QC_INLINE Bytes group(const uint8_t* tile) const {
    if constexpr (kBits == 4) {
      const Bytes u = shift_right<4 * kGroupIndex>(vector(tile));
      return lookup64(tables[0], merge_bits(set_bytes(15), u, numbers[kTile]));
    } else {
      constexpr int kSlot = kGroupIndex % 4, kHalf = kGroupIndex / 4;
      constexpr bool kIsLow = kSlot >= 2;  // where the lower two bits go to
      const Bytes upper = shift_right<4 * kHalf>(vector(tile + 128));
      const Bytes lower = shift_right<2 * kSlot - (kIsLow ? 0 : 2)>(vector(tile + 64 * kHalf));
      const Bytes rest =
          kHasSpecial ? merge_bits(set_bytes(15), upper, numbers[kTile]) : held(upper);
      return lookup64(tables[kSlot], merge_bits(set_bytes(kIsLow ? 3 : 12), lower, rest));
    }
  }
};

// In the place of Planes where special values are at most four, and of 3 bits where there are none:
// code and value by one lookup.
template <int kBits_, bool kHasSpecial>
struct IndexedPlane {
  static constexpr int kBits = kBits_, kPlanes = 1;
  Bytes tables[kBits == 3 ? 4 : 1], places[4];

  explicit IndexedPlane(const Weight& w) {
    alignas(64) uint8_t entries[64];
    if (kHasSpecial) {
      std::memcpy(entries, w.special_table, 64);
    } else {
      for (int i = 0; i < 64; ++i) entries[i] = w.byte_table[i % 8];
    }
    tables[0] = load_bytes(entries);
    if constexpr (kBits == 3) {
      const Bytes table = tables[0];
      for (int i = 0; i < 4; ++i) tables[i] = lookup64(table, load_bytes(kSlotIndices.of_slot[i]));
    }
    if constexpr (kHasSpecial) {
      for (int i = 0; i < 4; ++i) places[i] = load_bytes(w.special_places + 64 * i);
    }
  }
  template <int kTiles>
  QC_INLINE void read_block(const Weight&, const BlockParts& parts,
                            Bytes (&numbers)[kTiles]) const {
    static_assert(kTiles == kPanelTiles, "64 special values are one vector");
    Bytes all = set_bytes(0);
    if constexpr (kHasSpecial) all = lookup256(places, load_bytes(parts.zero_points));
    unroll<kTiles>(QC_UNROLLED(t) { numbers[t] = spread_tile<t>(all); });
  }
  template <int kRows>
  QC_INLINE auto codes(const Bytes* numbers) const {
    return IndexedCodes<kBits, kHasSpecial, kRows == 1>{tables, numbers};
  }
  template <int>
  QC_INLINE Bytes of(Bytes u, Bytes) const {
    return u;
  }
};
#else
constexpr bool kHasLooseIndex = false;
template <int kBits, bool kHasSpecial>
struct IndexedPlane;
#endif

// ---- few rows: looked up on the way ----

template <class Values, bool kIsWide, int kRows, bool kIsFloat>
void fused_table_rows(const TablePanel& tp, const Values& planes, int64_t row) {
  constexpr int kBits = Values::kBits, kPlanes = Values::kPlanes, kTiles = kPanelTiles;
  constexpr int kChains = kHasManySums && kRows == 1 ? 2 : 1;
  const Panel& p = tp.panel;
  const Weight& w = *p.weight;
  const int8_t* x[kRows];
  const int32_t* x_sums[kRows];
  take_rows<kRows>(*p.args, row, x, x_sums);
  Floats floats[kRows][kTiles];
  Ints acc[kPlanes * kChains][kRows][kTiles], totals[kPlanes][kRows][kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<kTiles>(QC_UNROLLED(t) { floats[r][t] = set_floats(0); });
  });
  unroll<kPlanes>(QC_UNROLLED(i) { clear(totals[i]); });
  const uint8_t* block = p.stream;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const int64_t num_chunks = ceil_div(w.columns_of(b), chunk_columns(kBits));
    const BlockParts parts(p, block, kTiles * num_chunks * kTileChunkBytes<kBits>);
    Bytes special[kTiles];
    planes.read_block(w, parts, special);
    unroll<kTiles>(QC_UNROLLED(t) {
      unroll<kRows>(QC_UNROLLED(r) {
        unroll<kPlanes * kChains>(QC_UNROLLED(i) { acc[i][r][t] = set_ints(0); });
      });
    });
    const auto add_dots = [&](auto r, auto t, auto g, Bytes u, Ints xs)
                              __attribute__((always_inline)) {
      unroll<kPlanes>(QC_UNROLLED(i) {
        Ints& sum = acc[g % kChains * kPlanes + i][r][t];
        sum = dot<kIsWide>(sum, planes.template of<i>(u, special[t]), xs);
      });
    };
    int64_t column = b * w.block_size;
    const auto codes = planes.template codes<kRows>(special);
    fused_chunks<kBits, kRows, kTiles>(block, num_chunks, codes, x, column, add_dots);
    unroll<kTiles>(QC_UNROLLED(t) {
      Floats scale = set_floats(0);
      if (kIsFloat) scale = load_scales(w, parts.scales + t * kTile * w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        Ints sums[kPlanes];
        unroll<kPlanes>(QC_UNROLLED(i) {
          // At the end: where sums began so, four rows of bitmod3 took half as long again.
          const Ints first = i ? tp.start_high(x_sums[r][b]) : start(p, parts, t, x_sums[r][b]);
          sums[i] = add(acc[i][r][t], first);
          if constexpr (kChains == 2) sums[i] = add(sums[i], acc[kPlanes + i][r][t]);
          if constexpr (!kIsFloat) totals[i][r][t] = add(totals[i][r][t], sums[i]);
        });
        if constexpr (kIsFloat) {
          Floats sum;
          if constexpr (kPlanes == 2) sum = TablePanel::as_float(sums[1], sums[0]);
          if constexpr (kPlanes == 1) sum = to_floats(sums[0]);
          floats[r][t] = fmadd(scale, sum, floats[r][t]);
        }
      });
    });
    block = parts.scales + kTiles * kTile * (w.scale_bytes + point_bytes(w));
  }
  const int64_t num_rows = p.args->num_rows - row;
  if constexpr (kIsFloat) {
    finish_floats<kRows, kTiles>(p, row, num_rows, 0, floats);
  } else {
    if constexpr (kPlanes == 2) {
      unroll<kRows>(QC_UNROLLED(r) {
        unroll<kTiles>(QC_UNROLLED(t) {
          totals[0][r][t] = tp.total(totals[1][r][t], totals[0][r][t], t * kTile);
        });
      });
    }
    finish_ints<kRows, kTiles>(p, row, num_rows, 0, totals[0]);
  }
}

// Rows that share the lookups, where registers hold their sums.
constexpr int table_rows_at_once(int bits, int planes) {
  if (bits == 3 || bits == 4) return kFusedRowsAtOnce / planes;
  return kHasBytePermute && bits > 4 && planes == 2 ? 2 : 1;
}
// Rows up to which their own lookups cost less than an unpacking. That of words costs more than
// that of bytes: 16 rows of 4 bits 2.96 ms by lookups and 3.46 as words, four of 8 bits 1.98 and 2.53.
constexpr int fused_table_rows(int bits, int planes) {
  const int at_once = table_rows_at_once(bits, planes);
  if (!kHasCrossed || planes == 1) return 2 * at_once - 1;
  if (bits == 3 || bits == 4) return 16;
  return at_once == 1 ? 3 : bits <= 6 ? 8 : 4;
}

template <class Values, bool kIsWide, bool kIsFloat>
void fused_table(const TablePanel& tp) {
  constexpr int kMany = table_rows_at_once(Values::kBits, Values::kPlanes);
  const Values planes(*tp.panel.weight);
  const int64_t num_rows = tp.panel.args->num_rows;
  for (int64_t row = 0; row < num_rows;) {
    if (num_rows - row == 1) {
      fused_table_rows<Values, kIsWide, 1, kIsFloat>(tp, planes, row);
      row += 1;
    } else {
      fused_table_rows<Values, kIsWide, kMany, kIsFloat>(tp, planes, row);
      row += kMany;
    }
  }
}

// ---- many rows: the panel as bytes, [groups][tiles][planes][64] ----

template <int kBits, int kPlanes, bool kHasSpecial>
struct PlaneStore {
  const Weight* weight;
  Planes<kBits, kPlanes, kHasSpecial> planes;
  uint8_t* out;

  QC_INLINE void operator()(const BlockParts& parts, int tile, int64_t at, Bytes u) const {
    Bytes special = u;
    if (kHasSpecial) special = special_bytes(*weight, parts.zero_points + tile * kTile);
    unroll<kPlanes>(QC_UNROLLED(i) {
      store_bytes(out + (at * kPlanes + i) * 64, planes.template of<i>(u, special));
    });
  }
};

template <int kRows, int kTiles, bool kIsFloat>
void plane_rows(const TablePanel& tp, int64_t row, int tile) {
  const Panel& p = tp.panel;
  const Weight& w = *p.weight;
  const matmul_s8_n16k4_args& a = *p.args;
  const int8_t* x[kRows];
  const int32_t* x_sums[kRows];
  take_rows<kRows>(a, row, x, x_sums);
  alignas(64) float floats[kRows][kTiles][kTile] = {};  // in memory: registers are for the sums
  Ints acc[kRows][2 * kTiles];
  unroll<kRows>(QC_UNROLLED(r) {
    unroll<2 * kTiles>(QC_UNROLLED(i) { acc[r][i] = set_ints(0); });
  });
  const uint8_t* codes = a.scratch + tile * 128;
  for (int64_t b = 0; b < w.num_blocks; ++b) {
    const BlockParts parts(p, p.stream + b * p.block_bytes, n16k4_block_code_bytes(w, b, p.tiles));
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<2 * kTiles>(QC_UNROLLED(i) {
        const Ints first =
            i % 2 ? tp.start_high(x_sums[r][b]) : start(p, parts, tile + i / 2, x_sums[r][b]);
        acc[r][i] = kIsFloat ? first : add(acc[r][i], first);
      });
    });
    const Run *run = a.runs + (b ? a.run_ends[b - 1] : 0), *end = a.runs + a.run_ends[b];
    product_block<!kHasDot, kRows, 2 * kTiles>(codes, p.tiles * 128, run, end, x, acc);
    codes += w.padded_columns_of(b) / kGroup * p.tiles * 128;
    if (!kIsFloat) continue;
    unroll<kTiles>(QC_UNROLLED(t) {
      const Floats scale = load_scales(w, parts.scales + (tile + t) * kTile * w.scale_bytes);
      unroll<kRows>(QC_UNROLLED(r) {
        const Floats sum = TablePanel::as_float(acc[r][2 * t + 1], acc[r][2 * t]);
        store_floats(floats[r][t], fmadd(scale, sum, load_floats(floats[r][t])), kTile);
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
    Ints sums[kRows][kTiles];
    unroll<kRows>(QC_UNROLLED(r) {
      unroll<kTiles>(QC_UNROLLED(t) {
        sums[r][t] = tp.total(acc[r][2 * t + 1], acc[r][2 * t], (tile + t) * kTile);
      });
    });
    finish_ints<kRows, kTiles>(p, row, a.num_rows - row, tile, sums);
  }
}

template <int kTiles, bool kIsFloat>
void plane_tiles(const TablePanel& tp, int tile) {
  constexpr int kFull = kRowsOfTiles[2 * kTiles], kHalf = kFull / 2;
  for (int64_t row = 0; row < tp.panel.args->num_rows;) {
    const int count = rows_of_block(tp.panel.args->num_rows - row, kFull, kHalf);
    if (count == kFull) {
      plane_rows<kFull, kTiles, kIsFloat>(tp, row, tile);
    } else if (count == kHalf) {
      plane_rows<kHalf, kTiles, kIsFloat>(tp, row, tile);
    } else {
      plane_rows<1, kTiles, kIsFloat>(tp, row, tile);
    }
    row += count;
  }
}

template <bool kIsFloat>
void plane_panel(const TablePanel& tp) {
  constexpr int kMost = kMaxTiles >= 4 ? 2 : 1;
  for (int tile = 0; tile < tp.panel.tiles;) {
    const bool is_most = kMost > 1 && tp.panel.tiles - tile > 1;
    is_most ? plane_tiles<kMost, kIsFloat>(tp, tile) : plane_tiles<1, kIsFloat>(tp, tile);
    tile += is_most ? kMost : 1;
  }
}

#ifdef QC_HAS_CROSSED
template <int kBits>
struct CrossedStore {
  Planes<kBits, 2, false> planes;
  uint8_t* out;

  QC_INLINE void operator()(const BlockParts&, int, int64_t at, Bytes u) const {
    const Bytes low = planes.template of<0>(u, u);
    const Bytes high = bit_xor(planes.template of<1>(u, u), set_bytes(128));  // high_offset
    store_bytes(out + at * kCrossedGroupBytes, even_words(low, high));
    store_bytes(out + at * kCrossedGroupBytes + 64, odd_words(low, high));
  }
};

template <int kBits>
void unpack_crossed(const Panel& p, const Slice& slice, uint8_t* words) {
  const CrossedStore<kBits> store{Planes<kBits, 2, false>(*p.weight), words};
  int64_t at = 0;
  for (int i = 0; i < slice.num_pieces; ++i) {
    const Piece& piece = slice.pieces[i];
    const uint8_t* block = p.stream + piece.block * p.block_bytes;
    const BlockParts parts(p, block, p.code_bytes);  // tables have neither points nor specials
    const uint8_t* codes =
        block + piece.column / chunk_columns(kBits) * p.tiles * kTileChunkBytes<kBits>;
    const int64_t num_chunks = ceil_div(piece.groups * kGroup, chunk_columns(kBits));
    unpack_chunks<kBits, false>(p, parts, codes, num_chunks, nullptr, store, &at);
  }
}
#endif

template <int kBits, int kPlanes, bool kHasSpecial, bool kIsWide, bool kIsFloat>
void table_panel(const TablePanel& tp) {
  const Panel& p = tp.panel;
  const matmul_s8_n16k4_args& a = *p.args;
  if constexpr (kHasManySums) {
    const bool is_fused = a.is_contiguous && a.num_rows <= fused_table_rows(kBits, kPlanes);
    if (is_fused && p.tiles == kPanelTiles) {
      if constexpr (kHasLooseIndex && kHasSpecial) {
        if (p.weight->special_table) {
          return fused_table<IndexedPlane<kBits, true>, kIsWide, kIsFloat>(tp);
        }
      }
      if constexpr (kHasLooseIndex && kBits == 3 && kPlanes == 1 && !kHasSpecial) {
        // Several rows, which share the work of a shuffle, took 5 to 17 % longer so.
        if (a.num_rows > 1) return fused_panel<kBits, true, kIsWide>(p);
        return fused_table<IndexedPlane<kBits, false>, kIsWide, kIsFloat>(tp);
      }
      return fused_table<Planes<kBits, kPlanes, kHasSpecial>, kIsWide, kIsFloat>(tp);
    }
  }
  const Planes<kBits, kPlanes, kHasSpecial> planes(*p.weight);
#ifdef QC_HAS_CROSSED
  if constexpr (kPlanes == 2) {
    if (p.weight->largest_entry <= kCrossedMost) {
      return crossed_panel<kIsFloat>(tp, unpack_crossed<kBits>);
    }
  }
#endif
  unpack_panel<kBits, false>(
      p, PlaneStore<kBits, kPlanes, kHasSpecial>{p.weight, planes, a.scratch});
  if constexpr (kPlanes == 2) {
    plane_panel<kIsFloat>(tp);
  } else {
    const Unpacked unpacked{a.scratch, p.weight->padded_columns_of(0) * p.tiles * kTile};
    product_panel<kIsWide, kIsFloat>(p, unpacked);
  }
}

template <int kBits, int kPlanes, bool kHasSpecial>
void run_table(const TablePanel& tp) {
  const bool is_float = tp.panel.args->epilogue.output == Output::kFloat;
  if constexpr (!kHasDot) {
    if (kPlanes == 2 || is_wide(*tp.panel.weight)) {
      return is_float ? table_panel<kBits, kPlanes, kHasSpecial, true, true>(tp)
                      : table_panel<kBits, kPlanes, kHasSpecial, true, false>(tp);
    }
  }
  if constexpr (kHasDot || kPlanes == 1) {
    is_float ? table_panel<kBits, kPlanes, kHasSpecial, false, true>(tp)
             : table_panel<kBits, kPlanes, kHasSpecial, false, false>(tp);
  }
}

template <int kBits>
void run_bits(const TablePanel& tp) {
  if (tp.panel.weight->high_table) return run_table<kBits, 2, false>(tp);
  if constexpr (kBits == 3 || kBits == 4) {
    if (tp.panel.weight->has_special) return run_table<kBits, 1, true>(tp);
  }
  if constexpr ((kBits > 4 && kHasBytePermute) || (kBits == 3 && kHasLooseIndex)) {
    return run_table<kBits, 1, false>(tp);
  }
}

}  // namespace

void QC_ISA_NAME(matmul_s8_table)(matmul_s8_table_args& a) {
  const TablePanel tp(a);
  switch (a.weight->bits) {
    case 1: return run_bits<1>(tp);
    case 2: return run_bits<2>(tp);
    case 3: return run_bits<3>(tp);
    case 4: return run_bits<4>(tp);
    case 5: return run_bits<5>(tp);
    case 6: return run_bits<6>(tp);
    case 7: return run_bits<7>(tp);
    default: return run_bits<8>(tp);
  }
}

}  // namespace qcompile
