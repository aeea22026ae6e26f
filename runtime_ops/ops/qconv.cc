// SPDX-License-Identifier: Apache-2.0
// QConv: NHWC convolutions, grouped and depthwise, as products of rows that are read in place.
//
// The input is centred or quantized once into a map with its padding written out. A row of the
// product (one output pixel) is then kh runs of kw * C bytes of that map; where a run is no
// multiple of 4 bytes the rows are gathered (im2col), one tile of pixels at a time.
#include <algorithm>
#include <cstring>

#include "../kernels/depthwise_unpack.h"
#include "../kernels/epilogue.h"
#include "activation.h"
#include "ops.h"
#include "window.h"

namespace qcompile {
namespace {

constexpr int64_t kSerialBytes = 64 * 1024;   // of element-wise work
constexpr int64_t kSerialWork = 512 * 1024;   // multiplications worth a thread
constexpr int64_t kMinPixels = 96;            // a smaller tile would unpack its panel too often

// Contiguous bytes of a row, relative to its first tap.
struct Segment {
  int64_t x_offset;
  int64_t bytes;
};

// Sizes of one execution.
struct Map {
  int64_t B, H, W, C, OH, OW;
  int64_t padded_h, padded_w;
  int64_t pixels() const { return B * OH * OW; }
  int64_t sample_bytes() const { return padded_h * padded_w * C; }
};

class QConv final : public OpKernel {
 public:
  explicit QConv(const Node& node)
      : node_(node), group_(node.integer("group", 1)),
        is_depthwise_(node.text("layout") == "kc/1"), window_(read_window(node, false)),
        weight_(node, is_depthwise_ ? 1 : group_), activation_(node, weight_, false) {
    check_shape();
    const Tensor buffer = node.constant(1);
    if (buffer.type == ort::kUndefined) return;
    weight_.check_buffer(buffer);
    constant_ = buffer.data;
    if (activation_.is_static() && !is_depthwise_) {
      corrections_ = activation_.corrections(weight_, buffer);
    }
  }

  void compute(const Context& context) const override {
    const Tensor x = context.input(0), buffer = context.input(1);
    const Tensor bias = context.input(2), multiplier = context.input(3);
    activation_.check_operands(x, bias, multiplier);
    if (buffer.data != constant_) weight_.check_buffer(buffer);
    const Map map = read_map(x);
    const Tensor y = context.output(0, {map.B, map.OH, map.OW, weight_.N()});
    if (y.count == 0) return;
    static thread_local Scratch padded, sample_scales;
    int8_t* codes = padded.get<int8_t>(map.B * map.sample_bytes());
    float* scales = sample_scales.get<float>(map.B);
    fill_codes(context, x, map, codes, scales);
    if (is_depthwise_) return depthwise(context, buffer, bias, multiplier, map, codes, scales, y);
    const bool is_computed = activation_.is_static() && buffer.data != constant_;
    const std::vector<int64_t> fresh =
        is_computed ? activation_.corrections(weight_, buffer) : std::vector<int64_t>();
    const std::vector<int64_t>& corrections = is_computed ? fresh : corrections_;
    dense(context, buffer, activation_.epilogue(bias, multiplier, corrections, 0), map, codes,
          scales, y);
  }

 private:
  int64_t channels() const {
    return is_depthwise_ ? weight_.N() : weight_.K() / taps() * group_;
  }
  int64_t taps() const { return window_.kernel[0] * window_.kernel[1]; }

  void check_shape() const {
    const bool fits = is_depthwise_ ? group_ == weight_.N() && weight_.K() == taps()
                                    : weight_.K() % taps() == 0;
    if (weight_.layout() == LayoutKind::kRows || !fits) {
      node_.refuse("layout " + node_.text("layout") + ", N = " + std::to_string(weight_.N()) +
                       ", K = " + std::to_string(weight_.K()) + ", group = " +
                       std::to_string(group_) + ", " + std::to_string(taps()) + " taps",
                   "docs/ops.md: n16k4/1 with K = kh*kw*C/group, or kc/1 with group = C = N and "
                   "K = kh*kw", "Pack the model again with this version of qcompile.");
    }
  }

  Map read_map(const Tensor& x) const {
    check_map(node_, window_, x);
    if (x.dims[3] != channels()) {
      node_.refuse("X is " + to_string(x.dims) + "; the weight has " + std::to_string(channels()) +
                       " input channels", "docs/ops.md: X is NHWC", "Correct the graph.");
    }
    Map map;
    map.B = x.dims[0];
    map.H = x.dims[1];
    map.W = x.dims[2];
    map.C = x.dims[3];
    map.OH = window_.output_size(0, map.H);
    map.OW = window_.output_size(1, map.W);
    map.padded_h = map.H + window_.pads[0] + window_.pads[2];
    map.padded_w = map.W + window_.pads[1] + window_.pads[3];
    return map;
  }

  // The scale of each sample, N4.
  void find_scales(const Context& context, const Tensor& x, const Map& map, float* scales) const {
    const int64_t count = map.H * map.W * map.C;
    const int64_t pieces = std::max<int64_t>(1, count / (kSerialBytes / 4));
    const int64_t piece = ceil_div(count, pieces);
    static thread_local Scratch maxima;
    int32_t* amax = maxima.get<int32_t>(map.B * pieces);
    context.parallel(map.B * pieces, [&](int64_t task) {
      const int64_t first = task % pieces * piece;
      amax_f32_args args{x.as<float>() + task / pieces * count + first,
                         std::max<int64_t>(0, std::min(piece, count - first)), 0};
      kernels().amax_f32(args);
      amax[task] = args.amax_bits;
    });
    for (int64_t b = 0; b < map.B; ++b) {
      const int32_t bits = *std::max_element(amax + b * pieces, amax + (b + 1) * pieces);
      scales[b] = dynamic_scale(bits, activation_.limit());
    }
  }

  // One row of the padded map: border codes left and right, codes of X between.
  void fill_row(const Tensor& x, const Map& map, int64_t b, int64_t padded_row, int8_t* row,
                float scale) const {
    const int pad = activation_.pad_code();
    const int64_t h = padded_row - window_.pads[0], bytes = map.W * map.C;
    if (h < 0 || h >= map.H) {
      std::memset(row, pad, static_cast<size_t>(map.padded_w * map.C));
      return;
    }
    int8_t* inside = row + window_.pads[1] * map.C;
    std::memset(row, pad, static_cast<size_t>(window_.pads[1] * map.C));
    std::memset(inside + bytes, pad, static_cast<size_t>(window_.pads[3] * map.C));
    const int64_t at = (b * map.H + h) * bytes;
    if (activation_.is_static()) {
      centre_u8_s8_args args{x.as<uint8_t>() + at, bytes, inside};
      kernels().centre_u8_s8(args);
    } else {
      quantize_f32_s8_args args{x.as<float>() + at, bytes, scale, activation_.limit(), inside};
      kernels().quantize_f32_s8(args);
    }
  }

  void fill_codes(const Context& context, const Tensor& x, const Map& map, int8_t* codes,
                  float* scales) const {
    if (!activation_.is_static()) find_scales(context, x, map, scales);
    const int64_t row_bytes = map.padded_w * map.C, rows = map.B * map.padded_h;
    const int64_t per_task = std::max<int64_t>(1, kSerialBytes / std::max<int64_t>(1, row_bytes));
    context.parallel(ceil_div(rows, per_task), [&](int64_t task) {
      for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) {
        fill_row(x, map, r / map.padded_h, r % map.padded_h, codes + r * row_bytes,
                 activation_.is_static() ? 0.0f : scales[r / map.padded_h]);
      }
    });
  }

  // Where the bytes of a row of one group lie.
  std::vector<Segment> segments(const Map& map) const {
    const int64_t in_group = map.C / group_;
    const bool is_merged = group_ == 1 && window_.dilations[1] == 1;
    std::vector<Segment> out;
    for (int64_t i = 0; i < window_.kernel[0]; ++i) {
      const int64_t line = i * window_.dilations[0] * map.padded_w * map.C;
      for (int64_t j = 0; j < (is_merged ? 1 : window_.kernel[1]); ++j) {
        const int64_t bytes = is_merged ? window_.kernel[1] * in_group : in_group;
        out.push_back({line + j * window_.dilations[1] * map.C, bytes});
      }
    }
    return out;
  }

  // Segments cut at the blocks of the weight, as runs of groups.
  static Runs cut_at_blocks(const std::vector<Segment>& segments, const Weight& w) {
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

  void dense(const Context& context, const Tensor& buffer, const Epilogue& epilogue,
             const Map& map, const int8_t* codes, const float* scales, const Tensor& y) const {
    const Weight first_group = weight_.weight(buffer);
    const std::vector<Segment> pieces = segments(map);
    bool is_direct = true;
    for (const Segment& piece : pieces) is_direct = is_direct && piece.bytes % kGroup == 0;
    const Runs runs = is_direct ? cut_at_blocks(pieces, first_group)
                                : contiguous_runs(first_group);
    const int64_t panels = n16k4_num_panels(first_group), pixels = map.pixels();
    const int64_t work = pixels * weight_.K() * std::min<int64_t>(first_group.N, kPanel);
    const int64_t by_work = std::max<int64_t>(1, work / kSerialWork);
    const int64_t by_size = std::max<int64_t>(1, pixels / kMinPixels);
    // Tiles of a multiple of 48 pixels: whole register blocks of every kernel.
    const int64_t tile =
        ceil_div(ceil_div(pixels, std::min<int64_t>({by_work, by_size, 64})), 48) * 48;
    const int64_t tiles = ceil_div(pixels, tile);
    const Job job{&map, codes, scales, &pieces, &runs, is_direct, &buffer, &epilogue, &y};
    context.parallel(group_ * tiles * panels, [&](int64_t task) {
      const int64_t panel = task % panels, g = task / panels % group_;
      const int64_t first = task / panels / group_ * tile;
      dense_tile(job, g, panel, first, std::min(tile, pixels - first));
    });
  }

  struct Job {
    const Map* map;
    const int8_t* codes;
    const float* scales;
    const std::vector<Segment>* pieces;
    const Runs* runs;
    bool is_direct;
    const Tensor* buffer;
    const Epilogue* epilogue;
    const Tensor* y;
  };

  // The first tap of pixels [first, first + count), and the scale of each one's sample.
  void locate(const Job& job, int64_t g, int64_t first, int64_t count, const int8_t** rows,
              float* scales) const {
    const Map& map = *job.map;
    int64_t ox = first % map.OW, oy = first / map.OW % map.OH, b = first / map.OW / map.OH;
    const int8_t* base = job.codes + g * (map.C / group_);
    for (int64_t p = 0; p < count; ++p) {
      rows[p] = base + b * map.sample_bytes() +
                (oy * window_.strides[0] * map.padded_w + ox * window_.strides[1]) * map.C;
      scales[p] = activation_.is_static() ? 0.0f : job.scales[b];
      if (++ox < map.OW) continue;
      ox = 0;
      if (++oy < map.OH) continue;
      oy = 0;
      ++b;
    }
  }

  // Gathers rows to one piece each, zero from K to the end of the chunk. Copies 16 bytes at a time: what is
  // too much is overwritten by the next piece or row, and both buffers have 64 bytes to spare.
  static void gather(const std::vector<Segment>& pieces, int64_t K, int64_t stride, int64_t count,
                     const int8_t** rows, int8_t* out) {
    for (int64_t p = 0; p < count; ++p, out += stride) {
      int8_t* to = out;
      for (const Segment& piece : pieces) {
        const int8_t* from = rows[p] + piece.x_offset;
        for (int64_t i = 0; i < piece.bytes; i += 16) std::memcpy(to + i, from + i, 16);
        to += piece.bytes;
      }
      // Fixed sizes are stores, not calls; less than a chunk (32) is missing.
      std::memset(out + K, 0, 32);
      rows[p] = out;
    }
  }

  void dense_tile(const Job& job, int64_t g, int64_t panel, int64_t first, int64_t count) const {
    static thread_local Scratch pointers, row_scales, gathered, sums, scratch;
    const Weight w = weight_.weight(*job.buffer, g);
    const int8_t** rows = pointers.get<const int8_t*>(count);
    float* scales = row_scales.get<float>(count);
    locate(job, g, first, count, rows, scales);
    if (!job.is_direct) {
      const int64_t stride = ceil_div(padded_row(w), 16) * 16;
      gather(*job.pieces, w.K, stride, count, rows, gathered.get<int8_t>(count * stride));
    }
    int32_t* x_sums = sums.get<int32_t>(count * w.num_blocks);
    rowsum_s8_args sum_args{rows, count, job.runs->runs.data(), job.runs->ends.data(),
                            w.num_blocks, x_sums};
    kernels().rowsum_s8(sum_args);
    const int64_t n = g * w.N + panel * kPanel;
    matmul_s8_n16k4_args args{};
    args.weight = &w;
    args.panel = panel;
    args.x_rows = rows;
    args.num_rows = count;
    args.runs = job.runs->runs.data();
    args.run_ends = job.runs->ends.data();
    args.is_contiguous = !job.is_direct;
    args.x_sums = x_sums;
    args.scratch = scratch.get<uint8_t>(n16k4_scratch_bytes(w));
    args.epilogue = at_output(*job.epilogue, n);
    args.epilogue.x_scales = scales;
    args.y = static_cast<uint8_t*>(job.y->data) +
             (first * weight_.N() + n) * (activation_.is_static() ? 1 : 4);
    args.y_stride = weight_.N();
    activation_.product()(args);
  }

  void depthwise(const Context& context, const Tensor& buffer, const Tensor& bias,
                 const Tensor& multiplier, const Map& map, const int8_t* codes,
                 const float* scales, const Tensor& y) const {
    const Weight w = weight_.weight(buffer);
    const int64_t padded = ceil_div(w.N, kTile) * kTile;
    static thread_local Scratch memory;
    DepthwiseWeight unpacked;
    unpacked.allocate(memory.get<uint8_t>(DepthwiseWeight::bytes(w.K, padded)), w.K, padded);
    unpack_depthwise(w, activation_.pad_code(), &unpacked);
    Epilogue epilogue = activation_.epilogue(bias, multiplier, corrections_, 0);
    unpacked.pad_epilogue(w.N, &epilogue);
    std::vector<int64_t> offsets;
    for (int64_t i = 0; i < window_.kernel[0]; ++i) {
      for (int64_t j = 0; j < window_.kernel[1]; ++j) {
        offsets.push_back((i * window_.dilations[0] * map.padded_w + j * window_.dilations[1]) *
                          map.C);
      }
    }
    const int64_t lines = map.B * map.OH, line_work = map.OW * padded * w.K;
    const int64_t per_task = std::max<int64_t>(1, kSerialWork / 8 / std::max<int64_t>(1, line_work));
    context.parallel(ceil_div(lines, per_task), [&](int64_t task) {
      for (int64_t l = task * per_task; l < std::min(lines, (task + 1) * per_task); ++l) {
        const int64_t b = l / map.OH, oy = l % map.OH;
        depthwise_s8_kc_args args{};
        args.x = codes + b * map.sample_bytes() +
                 oy * window_.strides[0] * map.padded_w * map.C;
        args.tap_offsets = offsets.data();
        args.num_taps = w.K;
        args.pixel_stride = window_.strides[1] * map.C;
        args.num_pixels = map.OW;
        args.num_channels = w.N;
        args.padded_channels = padded;
        args.values = unpacked.values;
        args.scales = unpacked.scales;
        args.epilogue = epilogue;
        args.epilogue.x_scales = scales + b;
        args.y = static_cast<uint8_t*>(y.data) +
                 l * map.OW * w.N * (activation_.is_static() ? 1 : 4);
        kernels().depthwise_s8_kc(args);
      }
    });
  }

  const Node node_;
  const int64_t group_;
  const bool is_depthwise_;
  const Window window_;
  const WeightInput weight_;
  const Activation activation_;
  const void* constant_ = nullptr;
  std::vector<int64_t> corrections_;
};

void infer(const ShapeContext& context) {
  std::vector<Dim> dims;
  ort::TensorType type;
  int64_t N;
  if (!context.input(0, &dims, &type) || dims.size() != 4 || !context.integer("N", &N)) return;
  if (!infer_window(context, false, &dims)) return;
  dims[3] = Dim{N, ""};
  context.set_output(0, type, dims);
}

std::unique_ptr<OpKernel> create(const Node& node) { return std::make_unique<QConv>(node); }

}  // namespace

void add_qconv(Definitions* out) {
  using namespace ort;
  out->emplace_back("QConv", Ports{{kFloat}, {kUint8}, {kFloat, kOptional}, {kFloat, kOptional}},
                    Ports{{kFloat}}, create, infer);
  out->emplace_back("QConv", Ports{{kUint8}, {kUint8}, {kInt32, kOptional}, {kFloat, kOptional}},
                    Ports{{kUint8}}, create, infer);
}

}  // namespace qcompile
