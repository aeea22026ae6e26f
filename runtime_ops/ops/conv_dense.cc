// SPDX-License-Identifier: Apache-2.0
#include "convolution.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace qcompile {
namespace {

// Multiplications: a task takes about 10 us, and less than 40 us is not worth waking a thread.
constexpr int64_t kTaskWork = 1024 * 1024, kSerialWork = 4 * kTaskWork;
// A smaller tile would read its panel too often, or unpack it.
constexpr int64_t kMinPixels = 96, kMinUnpackedPixels = 192;
constexpr int64_t kGatheredBytes = 32 * 1024;  // of rows at a time: they stay in the first cache

// Contiguous bytes of a row, relative to its first tap.
struct Segment {
  int64_t x_offset;
  int64_t bytes;
};

// Where the bytes of a row of one group lie.
std::vector<Segment> segments(const ConvShape& shape, const ConvMap& map) {
  const int64_t in_group = map.C / shape.group;
  const bool is_merged = shape.group == 1 && shape.window.dilations[1] == 1;
  std::vector<Segment> out;
  for (int64_t i = 0; i < shape.window.kernel[0]; ++i) {
    const int64_t line = i * shape.window.dilations[0] * map.padded_w * map.C;
    for (int64_t j = 0; j < (is_merged ? 1 : shape.window.kernel[1]); ++j) {
      const int64_t bytes = is_merged ? shape.window.kernel[1] * in_group : in_group;
      out.push_back({line + j * shape.window.dilations[1] * map.C, bytes});
    }
  }
  return out;
}

// Segments cut at the blocks of the weight, as runs of groups.
Runs cut_at_blocks(const std::vector<Segment>& segments, const Weight& w) {
  Runs runs;
  int64_t block = 0, left = w.columns_of(0);
  for (const Segment& segment : segments) {
    int64_t at = segment.x_offset, bytes = segment.bytes;
    while (bytes > 0) {
      const int64_t taken = std::min(bytes, left);
      runs.runs.push_back({at, taken / kGroup});
      at += taken;
      bytes -= taken;
      left -= taken;
      if (left > 0) continue;
      runs.ends.push_back(static_cast<int64_t>(runs.runs.size()));
      if (++block < w.num_blocks) left = w.columns_of(block);
    }
  }
  return runs;
}

// How all tiles of an execution read their rows.
struct Rows {
  std::vector<Segment> segments;
  bool is_direct = true;
  Runs runs;

  Rows(const Convolution& conv, const Weight& w)
      : segments(qcompile::segments(*conv.shape, conv.map)) {
    for (const Segment& segment : segments) is_direct = is_direct && segment.bytes % kGroup == 0;
    runs = is_direct ? cut_at_blocks(segments, w) : contiguous_runs(w);
  }
};

// A line of output pixels: `count` of them, `step` bytes of the map apart.
template <class Line>
void for_lines(const Convolution& conv, int64_t first, int64_t count, const Line& line) {
  const ConvMap& map = conv.map;
  const Window& window = conv.shape->window;
  const int64_t step = window.strides[1] * map.C;
  while (count > 0) {
    const int64_t ox = first % map.OW, oy = first / map.OW % map.OH, b = first / map.OW / map.OH;
    const int64_t taken = std::min(count, map.OW - ox);
    line(conv.codes + b * map.sample_bytes() + oy * window.strides[0] * map.padded_w * map.C +
             ox * step,
         step, taken, conv.activation->is_static() ? 0.0f : conv.scales[b]);
    first += taken;
    count -= taken;
  }
}

// Copies one segment of `count` pixels, 16 bytes at a time: what is too much is overwritten by the
// next segment, the zeros at the end of a row, or lies between rows.
void copy_segment(const int8_t* from, int64_t step, const Segment& segment, int64_t count,
                  int8_t* to, int64_t stride) {
  from += segment.x_offset;
  if (segment.bytes <= 16) {
    for (int64_t p = 0; p < count; ++p) std::memcpy(to + p * stride, from + p * step, 16);
    return;
  }
  for (int64_t p = 0; p < count; ++p, from += step, to += stride) {
    for (int64_t i = 0; i < segment.bytes; i += 16) std::memcpy(to + i, from + i, 16);
  }
}

// Gathers a line of rows to one piece each, zero from K to the end of the chunk (32 bytes at most).
void gather_line(const std::vector<Segment>& segments, int64_t K, const int8_t* from, int64_t step,
                 int64_t count, int8_t* out, int64_t stride) {
  int8_t* to = out;
  for (const Segment& segment : segments) {
    copy_segment(from, step, segment, count, to, stride);
    to += segment.bytes;
  }
  for (int64_t p = 0; p < count; ++p) std::memset(out + p * stride + K, 0, 32);
}

// Bytes between gathered rows: 32 more than a row are overwritten.
int64_t gathered_stride(const Weight& w) { return ceil_div(padded_row(w) + 32, 16) * 16; }

struct Tile {
  int64_t group, panel, first, count;
};

// The rows of a tile as kernels take them. All panels of a group share them, and a thread that does
// one after the other keeps them.
struct TileRows {
  Scratch memory;
  uint64_t run = 0;  // of dense_convolution, numbered from 1
  int64_t group = 0, first = 0;
  const int8_t** pointers = nullptr;
  float* scales = nullptr;
  int32_t* sums = nullptr;  // null where the kernel needs none

  void prepare(const Convolution& conv, const Rows& rows, const Weight& w, const Tile& tile) {
    const int64_t stride = rows.is_direct ? 0 : gathered_stride(w);
    const int64_t row_bytes = stride + 8 + 4 + 4 * w.num_blocks;
    // Kernels may read one vector beyond the last gathered row.
    int8_t* gathered = memory.get<int8_t>(tile.count * row_bytes + 128);
    pointers = reinterpret_cast<const int8_t**>(
        gathered + ceil_div(tile.count * stride + 64, 8) * 8);
    scales = reinterpret_cast<float*>(pointers + tile.count);
    const int64_t in_group = tile.group * (conv.map.C / conv.shape->group);
    int64_t p = 0;
    for_lines(conv, tile.first, tile.count,
              [&](const int8_t* from, int64_t step, int64_t count, float scale) {
      from += in_group;
      if (!rows.is_direct) {
        gather_line(rows.segments, w.K, from, step, count, gathered + p * stride, stride);
        from = gathered + p * stride;
        step = stride;
      }
      for (int64_t i = 0; i < count; ++i) {
        pointers[p + i] = from + i * step;
        scales[p + i] = scale;
      }
      p += count;
    });
    sums = nullptr;
    if (!needs_sums(kernels(), w, tile.count)) return;
    sums = reinterpret_cast<int32_t*>(scales + tile.count);
    rowsum_s8_args args{pointers, tile.count, rows.runs.runs.data(), rows.runs.ends.data(),
                        w.num_blocks, sums};
    kernels().rowsum_s8(args);
  }
};

void dense_tile(const Convolution& conv, const Rows& rows, const Epilogue& epilogue,
                const Tile& tile, uint64_t run) {
  static thread_local Scratch unpacked;
  static thread_local TileRows prepared;
  const Weight w = conv.weight->weight(conv.operands.weight, tile.group);
  if (prepared.run != run || prepared.group != tile.group || prepared.first != tile.first) {
    prepared.prepare(conv, rows, w, tile);
    prepared.run = run;
    prepared.group = tile.group;
    prepared.first = tile.first;
  }
  const int64_t N = conv.weight->N(), n = tile.group * w.N + tile.panel * kPanel;
  matmul_s8_n16k4_args args{};
  args.weight = &w;
  args.panel = tile.panel;
  args.x_rows = prepared.pointers;
  args.num_rows = tile.count;
  args.runs = rows.runs.runs.data();
  args.run_ends = rows.runs.ends.data();
  args.is_contiguous = !rows.is_direct;
  args.x_sums = prepared.sums;
  args.scratch = unpacked.get<uint8_t>(n16k4_scratch_bytes(w));
  args.epilogue = at_output(epilogue, n);
  args.epilogue.x_scales = prepared.scales;
  args.y = conv.y + (tile.first * N + n) * conv.activation->y_bytes();
  args.y_stride = N;
  conv.activation->product()(args);
}

// Pixels of a tile: a multiple of 48, whole register blocks of every kernel.
int64_t pixels_of_tile(const Convolution& conv, const Weight& w, bool is_direct) {
  const int64_t pixels = conv.map.pixels();
  const int64_t work = pixels * w.K * std::min<int64_t>(w.N, kPanel);
  const int64_t by_work = std::max<int64_t>(1, work / kTaskWork);
  const int64_t least = w.bits == 8 ? kMinPixels : kMinUnpackedPixels;
  const int64_t by_size = std::max<int64_t>(1, pixels / least);
  int64_t tile = ceil_div(pixels, std::min<int64_t>({by_work, by_size, 64}));
  if (!is_direct) {
    tile = std::min(tile, std::max<int64_t>(kMinPixels, kGatheredBytes / gathered_stride(w)));
  }
  return ceil_div(tile, 48) * 48;
}

}  // namespace

void dense_convolution(const Context& context, const Convolution& conv) {
  static std::atomic<uint64_t> runs{0};
  const uint64_t run = ++runs;
  const Weight w = conv.weight->weight(conv.operands.weight);
  const Rows rows(conv, w);
  const Epilogue epilogue = conv.activation->epilogue(conv.operands);
  const int64_t pixels = conv.map.pixels(), tile = pixels_of_tile(conv, w, rows.is_direct);
  const int64_t panels = n16k4_num_panels(w);
  const int64_t total = conv.shape->group * ceil_div(pixels, tile) * panels;
  const int64_t tile_work = tile * w.K * std::min<int64_t>(w.N, kPanel);
  const int64_t per_task =
      total * tile_work <= kSerialWork ? total : std::max<int64_t>(1, kTaskWork / tile_work);
  context.parallel(ceil_div(total, per_task), [&](int64_t task) {
    for (int64_t i = task * per_task; i < std::min(total, (task + 1) * per_task); ++i) {
      const int64_t group = i / panels % conv.shape->group;
      const int64_t first = i / panels / conv.shape->group * tile;
      dense_tile(conv, rows, epilogue, {group, i % panels, first, std::min(tile, pixels - first)},
                 run);
    }
  });
}

}  // namespace qcompile
