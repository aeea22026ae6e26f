// SPDX-License-Identifier: Apache-2.0
// What every kernel computes and the arguments it takes. Kernels trust their arguments: ops check.
#pragma once

#include <cstdint>

#include "n16k4_scratch.h"
#include "softmax_levels.h"
#include "weight.h"

namespace qcompile {

enum class Output {
  kRequantized,  // uint8, N11
  kFloat,        // float, N13
  kScaled,       // float, N16
  kDyadic,       // uint8, N12
  kRescaled,     // int32, N17
  kSum,          // int32: the exact sum itself
};

// What follows an exact sum `acc`, per output n.
struct Epilogue {
  Output output = Output::kSum;
  // N11: x is centred by 128, so acc = sum(x' * w) and the term of the zero point is
  // correction[n] = -(x_zero_point - 128) * sum_k(w[n, k]).
  const int64_t* correction = nullptr;
  const int32_t* bias_codes = nullptr;  // null: no bias
  const float* multiplier = nullptr;
  const int32_t *dyadic_m = nullptr, *dyadic_e = nullptr;  // N12, N17, in place of multiplier
  int32_t y_zero_point = 0, y_min = 0, y_max = 255;
  // N13
  const float* x_scales = nullptr;      // one a row
  const float* bias = nullptr;          // null: no bias
  float clip_min = 0, clip_max = 0;     // N13, N16
};

// Where neither acc nor bias reaches this their sum is an int32, as an integer and as a float: twice
// as much, less 2, is rounded to 2^31 - 128.
constexpr int32_t kHuge = (1 << 30) - 64;

// Whether the exact integer sum goes on as one number, with correction, bias_codes and multiplier.
inline bool is_integer(Output output) { return output != Output::kFloat; }

// The epilogue whose first output is `n` of this one.
inline Epilogue at_output(Epilogue e, int64_t n) {
  if (e.correction) e.correction += n;
  if (e.bias_codes) e.bias_codes += n;
  if (e.multiplier) e.multiplier += n;
  if (e.dyadic_m) e.dyadic_m += n;
  if (e.dyadic_e) e.dyadic_e += n;
  if (e.bias) e.bias += n;
  return e;
}

// A contiguous piece of a row of activations: `num_groups` groups of 4 columns from `x_offset`.
struct Run {
  int64_t x_offset;
  int64_t num_groups;
};

// y[m, n] = epilogue(sum over blocks and columns of x[m, k] * w[n, k]), one panel of outputs, N10.
// Row m is runs of bytes relative to x_rows[m]; block b owns runs[run_ends[b-1] .. run_ends[b]).
// Bytes of a row beyond K inside its last group must be 0.
// x_sums [num_rows, num_blocks]: sum of the row's bytes of each block; null where needs_sums() says
// no.
struct matmul_s8_n16k4_args {
  const Weight* weight;
  int64_t panel;
  const int8_t* const* x_rows;
  int64_t num_rows;
  const Run* runs;
  const int64_t* run_ends;
  // Rows are one piece of zero-padded chunks: column k of the weight is byte k, and K is readable
  // up to the end of its chunk.
  bool is_contiguous;
  const int32_t* x_sums;
  uint8_t* scratch;      // n16k4_scratch_bytes(), 64-byte aligned
  Epilogue epilogue;     // arrays start at the panel's first output
  void* y;               // element (row 0, the panel's first output)
  int64_t y_stride;      // elements from row to row
};
using matmul_s8_n16k4s_args = matmul_s8_n16k4_args;  // of sparse codes
// The same for weights whose codes are looked up in more than 16 bytes: tables beyond int8, in two
// planes of bytes, tables of 5 ... 8 bits (with AVX512-VBMI2 of 3, too), codes with special values.
using matmul_s8_table_args = matmul_s8_n16k4_args;

// y[m, n] = clip(sum_k x[m, k] * w[n, k] + bias[n]), one panel of outputs, N14.
// Every row is readable, and 0, beyond K to the end of the last chunk.
struct matmul_f32_n16k4_args {
  const Weight* weight;
  int64_t panel;
  const float* const* x_rows;
  int64_t num_rows;
  const float* bias;     // the panel's first output; null: none
  float clip_min, clip_max;
  float* y;
  int64_t y_stride;
  float* scratch;        // kFloatScratch floats, 64-byte aligned
};
using matmul_f32_n16k4s_args = matmul_f32_n16k4_args;  // of sparse codes
// Columns that are unpacked to floats at a time: 128 * 64 floats are 32 KB of the first cache.
constexpr int64_t kFloatSlice = 128;
constexpr int64_t kFloatScratch = (kFloatSlice + 32) * kPanel;  // and the rest of a chunk

// y[p, c] = epilogue(sum_taps x[p * pixel_stride + tap_offsets[t] + c] * w[t, c]), for one row of
// pixels. values [taps, padded channels] hold code - zero_point, or what a table says, in the low half
// of int32, whose high half is 0: that of x is the sign of x, and a 16-bit multiply-add sums both;
// x is readable 16 bytes beyond the last channel.
struct depthwise_s8_kc_args {
  const int8_t* x;
  const int64_t* tap_offsets;
  int64_t num_taps;
  int64_t pixel_stride;
  int64_t num_pixels;
  int64_t num_channels;
  int64_t padded_channels;  // a multiple of 16
  int32_t max_value;        // the largest |value|
  const int32_t* values;
  const float* scales;      // [padded channels], N13 only
  Epilogue epilogue;        // arrays of padded_channels; x_scales[0] covers all pixels
  void* y;                  // [num_pixels, num_channels]
};

// The same for codes (kRequantized) whose sums do not saturate, whose multipliers are at most 1 and
// whose values all fit int8; four taps, one below the other, are multiplied at once. Channels of
// operands have the order of quad_place(). x is readable 64 bytes beyond the last channel.
struct depthwise_u8_quads_args {
  const int8_t* x;
  int64_t row_stride, column_stride;   // bytes from row to row of taps, from column to column
  int64_t pixel_columns, tap_columns;  // columns from pixel to pixel, from tap to tap
  int64_t kernel_h, kernel_w;
  int64_t num_pixels;
  int64_t num_channels;
  const int8_t* quads;        // [kernel_w, ceil(kernel_h / 4), ceil(channels / 64), 4, 16, 4]
  const int32_t* correction;  // with the bias, and -128 * sum of the values, for x is used + 128
  const float* multiplier;
  int32_t y_zero_point, y_min, y_max;
  uint8_t* scratch;           // quad_scratch_bytes()
  uint8_t* y;
};
constexpr int64_t kQuadStrip = 32;  // pixels whose columns are in the first cache
inline int64_t quad_scratch_bytes(int64_t kernel_h, int64_t kernel_w, int64_t pixel_columns,
                                  int64_t tap_columns) {
  const int64_t columns = (kQuadStrip - 1) * pixel_columns + (kernel_w - 1) * tap_columns + 1;
  return columns * ceil_div(kernel_h, 4) * 256;
}
// Where interleaved bytes have a channel: of 64, number 16 l + 4 v + i is number 16 v + 4 l + i.
inline int64_t quad_place(int64_t channel) {
  return channel / 64 * 64 + channel / 4 % 4 * 16 + channel / 16 % 4 * 4 + channel % 4;
}

// sums[m, b] = sum of the bytes of block b of row m; for at most 2^24 columns a block.
struct rowsum_s8_args {
  const int8_t* const* x_rows;
  int64_t num_rows;
  const Run* runs;
  const int64_t* run_ends;
  int64_t num_blocks;
  int32_t* sums;
};

// amax_bits = max over i of the bits of |x[i]|: for floats without sign the order of the bits is
// the order of the numbers, and infinities and NaNs (>= 0x7f800000) come out on top, N4.
struct amax_f32_args {
  const float* x;
  int64_t count;
  int32_t amax_bits;  // in and out: the maximum so far
};

// codes[i] = clamp(rint(x[i] / scale), -limit, limit), all 0 where scale is NaN; N2, N4.
struct quantize_f32_s8_args {
  const float* x;
  int64_t count;
  float scale;
  int32_t limit;
  int8_t* codes;
};

// Every row of x with a scale of its own: scales[m], N4, and its codes, N2, then 0 up to `stride`.
struct quantize_rows_f32_s8_args {
  const float* x;              // [num_rows, num_columns]
  int64_t num_rows, num_columns;
  int64_t stride;              // bytes from row to row of codes
  int32_t limit;
  float reach;
  int8_t* codes;
  float* scales;
};

// Rows times signs and Hadamard's matrix, block by block, N42. block is a power of two of at most
// num_columns. signs are +1 and -1, one a column and then those of the last block, where that
// overlaps the one before.
struct rotate_rows_f32_args {
  const float* x;              // [num_rows, num_columns]
  int64_t num_rows, num_columns;
  int64_t block;
  const float* signs;
  float* y;
  int64_t stride;              // floats from row to row of y
};
constexpr int64_t kRowsToRotate = 8;  // rows that stay in the first cache until they are codes

// y[i] = x[i] - 128
struct centre_u8_s8_args {
  const uint8_t* x;
  int64_t count;
  int8_t* y;
};

// N20, or N18 by m * 2^-e; a step of 0 repeats one element.
struct add_u8_u8_args {
  const uint8_t* a;
  const uint8_t* b;
  int64_t a_step, b_step;  // 0 or 1
  int64_t count;
  float a_multiplier, b_multiplier;
  bool is_dyadic;
  int32_t a_m, b_m, e;
  int32_t a_zero_point, b_zero_point, y_zero_point, y_min, y_max;
  uint8_t* y;
};

// N26, or N12; a_multiplier and a_m are those of the product, those of b have no meaning.
using mul_u8_u8_args = add_u8_u8_args;

// y[i] = table[x[i]], N25.
struct lut_u8_args {
  const uint8_t* x;
  int64_t count;
  const uint8_t* table;  // [256]
  uint8_t* y;
};

// N27: one output pixel of all channels between four input pixels.
struct interpolate_u8_args {
  const uint8_t* corners[4];  // top left, top right, bottom left, bottom right
  float column_weights[2], row_weights[2];
  int64_t count;
  float multiplier;
  int32_t x_zero_point, y_zero_point, y_min, y_max;
  uint8_t* y;
};

// N21, N22: one output pixel of all channels from the window's taps that lie inside the input.
struct pool_u8_args {
  const uint8_t* x;            // the first tap inside
  int64_t num_rows, num_columns;      // taps inside
  int64_t row_stride, column_stride;  // bytes
  int64_t num_channels;
  bool is_average;
  float multiplier;            // already divided by the count
  bool is_dyadic;              // N19: m * 2^-e instead
  int32_t m, e;
  int32_t x_zero_point, y_zero_point, y_min, y_max;
  uint8_t* y;
};

// N28: every row normalised; K = num_columns is at most 2^23.
struct layer_norm_u8_args {
  const uint8_t* x;          // [num_rows, num_columns]
  int64_t num_rows, num_columns;
  const float* gamma;        // [num_columns], as beta
  const float* beta;
  bool is_centred;           // else RMSNorm
  float epsilon;
  int32_t x_zero_point, y_zero_point, y_min, y_max;
  uint8_t* y;
};

// N29: every row; num_columns is at least 1.
struct softmax_u8_args {
  const uint8_t* x;          // [num_rows, num_columns]
  int64_t num_rows, num_columns;
  const float* table;        // [256], integers of at most 2^24
  float multiplier;
  int32_t y_zero_point, y_min, y_max;
  uint8_t* y;
};

// N30, N32, N43: codes[i] = top * exp(score - the largest) - 128 on the levels, of one row of scores
// (sums[i] + corrections[i]) * column_multipliers[i] * multiplier + mask[i * mask_step]; sums,
// corrections and column_multipliers are readable, and scores writable, up to a multiple of 16
// columns.
struct softmax_s32_args {
  const int32_t* sums;
  const int32_t* corrections;
  int64_t num_columns;       // 1 ... 2^15
  const float* column_multipliers;  // null: none, N30
  float multiplier;
  const float* mask;         // null: none
  int64_t mask_step;         // 0 or 1
  float* scores;             // scratch
  SoftmaxLevels levels;
  int8_t* codes;             // of wide levels the weights / 128, rounded down
  int8_t* low_codes;         // of wide levels the rest; else not read
  int32_t total;             // out: the sum of the weights; 0 where every score is -infinity
};

// y[i] = clamp(rint((sums[i] + corrections[i]) * multiplier) + y_zero_point, y_min, y_max), N30; sums
// and corrections are readable up to a multiple of 16.
struct requantize_s32_args {
  const int32_t* sums;
  const int32_t* low_sums;  // null: none; else sums * 128 + low_sums, N43, each with corrections
  const int32_t* corrections;
  int64_t count;
  float multiplier;
  int32_t y_zero_point, y_min, y_max;
  uint8_t* y;
};

// y[i] = ((sums[i] + corrections[i]) * scales[i]) * multiplier, N32; all but y are readable up to a
// multiple of 16.
struct scale_s32_f32_args {
  const int32_t* sums;
  const int32_t* corrections;
  const float* scales;
  int64_t count;
  float multiplier;
  float* y;
};

// Rows of x without the mean of all rows (a sum in the order of m, times 1 / num_rows), each with a
// scale of its own: scales[m], N4, and 128 + its codes, N2; N32.
struct quantize_keys_f32_u8_args {
  const float* x;
  int64_t row_step;          // floats
  int64_t num_rows, num_columns;
  int32_t limit;
  float* mean;               // scratch [num_columns, up to a multiple of 16]
  uint8_t* codes;            // [num_rows, num_columns]
  float* scales;             // [num_rows]
};

// Every column of x with a scale of its own: scales[i], N4, and 128 + its codes, N2.
struct quantize_columns_f32_u8_args {
  const float* x;
  int64_t row_step;          // floats
  int64_t num_rows, num_columns;
  int32_t limit;
  uint8_t* codes;            // [num_rows, num_columns]
  float* scales;             // [num_columns]
};

// y = softmax(q . k * multiplier + mask) . v of one row q, all in floats, N32. scores are writable up
// to a multiple of 16.
struct attend_f32_args {
  const float* q;            // [depth]
  const float* k;            // [num_keys, depth]
  const float* v;            // [num_keys, width]
  int64_t k_step, v_step;    // floats from row to row
  int64_t num_keys, depth, width;
  float multiplier;
  const float* mask;         // null: none
  int64_t mask_step;         // 0 or 1
  float* scores;             // scratch
  float* y;                  // [width]
};

// The bytes x[n * n_step + k * k_step] of N outputs and K columns as an n16k4 weight of 8 bits in
// one block without scales, at `out`.
struct pack_u8_n16k4_args {
  const uint8_t* x;
  int64_t n_step, k_step;
  int64_t N, K;
  uint8_t zero_point;        // of x
  uint8_t* out;              // n16k4_bytes()
};

// y[k] = scale * (code - zero_point) of one row n of the weight; N23.
struct gather_f32_args {
  const Weight* weight;
  int64_t row;
  float* y;
};
using gather_f32_n16k4_args = gather_f32_args;
using gather_f32_rows_args = gather_f32_args;

// One number at a time, any format of at most 8 bits; N1, N2, N4.
struct code_f32_args {
  bool is_quantize;
  float* real;
  int8_t* codes;               // bit patterns
  int64_t count;
  float scale;
  int32_t zero_point;
  int num_codes;
  bool is_signed, is_symmetric;
  const float* table;          // num_codes values, a power of two, or null
  int32_t special_code;        // of a table: the index that is worth zero_point, or -1
};

#define QC_KERNEL(name, isa) QC_KERNEL_##isa(name)
#define QC_KERNEL_scalar(name) void name##__scalar(name##_args& args);
#ifdef QC_X86
#define QC_KERNEL_avx2(name) void name##__avx2(name##_args& args);
#define QC_KERNEL_avxvnni(name) void name##__avxvnni(name##_args& args);
#define QC_KERNEL_avx512vnni(name) void name##__avx512vnni(name##_args& args);
#define QC_KERNEL_avx512vbmi2(name) void name##__avx512vbmi2(name##_args& args);
#else
#define QC_KERNEL_avx2(name)
#define QC_KERNEL_avxvnni(name)
#define QC_KERNEL_avx512vnni(name)
#define QC_KERNEL_avx512vbmi2(name)
#endif
#ifdef QC_ARM64
#define QC_KERNEL_dotprod(name) void name##__dotprod(name##_args& args);
#define QC_KERNEL_i8mm(name) void name##__i8mm(name##_args& args);
#else
#define QC_KERNEL_dotprod(name)
#define QC_KERNEL_i8mm(name)
#endif
#include "kernels.inc"
#undef QC_KERNEL
#undef QC_KERNEL_scalar
#undef QC_KERNEL_avx2
#undef QC_KERNEL_avxvnni
#undef QC_KERNEL_avx512vnni
#undef QC_KERNEL_avx512vbmi2
#undef QC_KERNEL_dotprod
#undef QC_KERNEL_i8mm

// The kernels of the active ISA: for each name the last line of kernels.inc that it covers.
struct Kernels {
  void (*matmul_s8_n16k4)(matmul_s8_n16k4_args&);
  void (*matmul_s8_table)(matmul_s8_table_args&);  // null where there is none
  void (*matmul_f32_n16k4)(matmul_f32_n16k4_args&);
  void (*matmul_s8_n16k4s)(matmul_s8_n16k4_args&);
  void (*matmul_f32_n16k4s)(matmul_f32_n16k4_args&);
  void (*depthwise_s8_kc)(depthwise_s8_kc_args&);
  void (*depthwise_u8_quads)(depthwise_u8_quads_args&);  // null where there is none
  void (*rowsum_s8)(rowsum_s8_args&);
  void (*amax_f32)(amax_f32_args&);
  void (*quantize_f32_s8)(quantize_f32_s8_args&);
  void (*quantize_rows_f32_s8)(quantize_rows_f32_s8_args&);
  void (*rotate_rows_f32)(rotate_rows_f32_args&);
  void (*centre_u8_s8)(centre_u8_s8_args&);
  void (*add_u8_u8)(add_u8_u8_args&);
  void (*mul_u8_u8)(mul_u8_u8_args&);
  void (*lut_u8)(lut_u8_args&);
  void (*interpolate_u8)(interpolate_u8_args&);
  void (*pool_u8)(pool_u8_args&);
  void (*layer_norm_u8)(layer_norm_u8_args&);
  void (*softmax_u8)(softmax_u8_args&);
  void (*softmax_s32)(softmax_s32_args&);
  void (*requantize_s32)(requantize_s32_args&);
  void (*scale_s32_f32)(scale_s32_f32_args&);
  void (*quantize_keys_f32_u8)(quantize_keys_f32_u8_args&);
  void (*quantize_columns_f32_u8)(quantize_columns_f32_u8_args&);
  void (*attend_f32)(attend_f32_args&);
  void (*pack_u8_n16k4)(pack_u8_n16k4_args&);
  void (*gather_f32_n16k4)(gather_f32_n16k4_args&);
  void (*gather_f32_rows)(gather_f32_rows_args&);
  void (*code_f32)(code_f32_args&);
  bool multiplies_words;  // matmul_s8_n16k4, of wide codes
  unsigned table_widths;  // bit b: matmul_s8_table is the faster one of int8 tables of b bits
};

// Rows for which unpacking a panel to words costs more than words save.
constexpr int64_t kFewRows = 4;
// Whether matmul_s8_n16k4 reads the sums of rows: not where it multiplies words.
inline bool needs_sums(const Kernels& k, const Weight& w, int64_t num_rows) {
  if (w.high_table || w.has_special) return true;  // matmul_s8_table
  return !k.multiplies_words || !is_wide(w) || num_rows <= kFewRows;
}

// The integer and the float product of a weight's codes.
inline auto integer_product_of(const Kernels& k, const Weight& w) {
  return is_sparse(w.bits) ? k.matmul_s8_n16k4s : k.matmul_s8_n16k4;
}
inline auto float_product_of(const Kernels& k, const Weight& w) {
  return is_sparse(w.bits) ? k.matmul_f32_n16k4s : k.matmul_f32_n16k4;
}

enum class Isa : int {
  scalar = 0, avx2 = 1, avxvnni = 2, avx512vnni = 3, avx512vbmi2 = 4, dotprod = 5, i8mm = 6
};
constexpr int kNumIsas = 7;
extern const char* const kIsaNames[kNumIsas];

bool is_supported(Isa isa);                 // by this processor and this build
// The kernels for `forced` (a name, or null or "" for the best supported one). On failure returns
// false and leaves the reason in `message` (a static or thread-local string).
bool choose_kernels(const char* forced, Kernels* out, const char** message);

}  // namespace qcompile
