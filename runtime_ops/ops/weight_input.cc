// SPDX-License-Identifier: Apache-2.0
#include "weight_input.h"

#include <algorithm>

namespace qcompile {
namespace {

const char* const kAgain = "Pack the model again with this version of qcompile.";
// Bounds of N and K: every size below then fits int64 (N * K * bits <= 2^65 is excluded by the
// check of the product).
constexpr int64_t kMaxDim = int64_t{1} << 31;

const char* const kSparseName = "n16k4s/1";
const char* const kQuintsName = "n16k4q/1";
const std::vector<int64_t> kQuintTable{-2, -1, 0, 1, 2, 2, 2, 2};

}  // namespace

WeightInput::WeightInput(const Node& node, int64_t groups) : node_(node), groups_(groups) {
  const int64_t abi = node_.integer("abi");
  if (abi != 1) {
    node_.refuse("abi = " + std::to_string(abi) + "; this library has abi 1", "docs/ops.md", kAgain);
  }
  layout_name_ = node_.text("layout");
  if (layout_name_ == "n16k4/1" || layout_name_ == kSparseName || layout_name_ == kQuintsName) {
    layout_ = LayoutKind::kN16K4;
  } else if (layout_name_ == "kc/1") {
    layout_ = LayoutKind::kKC;
  } else if (layout_name_ == "rows/1") {
    layout_ = LayoutKind::kRows;
  } else {
    node_.refuse("layout = \"" + layout_name_ + "\"; this library has n16k4/1, n16k4s/1, "
                     "n16k4q/1, kc/1 and rows/1",
                 "docs/layouts.md", kAgain);
  }
  format_ = node_.text("format");
  read_shape();
  read_table();
  group_bytes_ = expected_bytes();
}

void WeightInput::read_shape() {
  Weight& w = shape_;
  w.bits = static_cast<int>(node_.integer_between("bits", 1, 8));
  const bool is_signed = node_.integer_between("is_signed", 0, 1);
  const int64_t N = node_.integer_between("N", 1, kMaxDim);
  if (groups_ < 1 || N % groups_) {
    node_.refuse("N = " + std::to_string(N) + " is no multiple of group = " +
                     std::to_string(groups_), "docs/ops.md", "Correct N or group.");
  }
  w.N = N / groups_;
  w.K = node_.integer_between("K", 1, kMaxDim);
  const int64_t block_size = node_.integer_between("block_size", 0, kMaxDim);
  w.block_size = block_size == 0 || block_size > w.K ? w.K : block_size;
  w.num_blocks = ceil_div(w.K, w.block_size);
  if (w.num_blocks > 1 && layout_ == LayoutKind::kKC) {
    node_.refuse("block_size = " + std::to_string(block_size) + " cuts K = " + std::to_string(w.K) +
                     " taps in blocks", "docs/layouts.md: kc/1 has one scale a channel",
                 "Use block_size 0.");
  }
  const int num_codes = node_.num_codes();
  bits_ = w.bits;
  if (layout_ == LayoutKind::kN16K4) w.bits = packing();
  const int64_t chunk = chunk_columns(w.bits);
  if (w.num_blocks > 1 && layout_ == LayoutKind::kN16K4 && w.block_size % chunk) {
    node_.refuse("block_size = " + std::to_string(block_size) + " of " +
                     std::to_string(bits_) + " bits is no multiple of " +
                     std::to_string(chunk), "docs/layouts.md: " + layout_name_,
                 "Use a block size that is one.");
  }
  const std::string scale_format = node_.text("scale_format");
  if (scale_format != "none" && scale_format != "f16" && scale_format != "f32") {
    node_.refuse("scale_format = \"" + scale_format + "\"; it is none, f16 or f32", "docs/ops.md",
                 kAgain);
  }
  w.scale_bytes = scale_format == "none" ? 0 : scale_format == "f16" ? 2 : 4;
  w.has_zero_point = node_.integer_between("has_zero_point", 0, 1);
  w.max_byte = num_codes - 1;
  w.offset = is_signed ? (w.max_byte + 1) / 2 : 0;
  w.zero_code = w.offset;
  absmax_ = w.has_zero_point ? w.max_byte : std::max(w.offset, w.max_byte - w.offset);
}

// Weight::bits of a dense layout.
int WeightInput::packing() const {
  const int bits = shape_.bits, num_codes = node_.num_codes();
  if (layout_name_ == kSparseName) {
    if (bits == 3 || bits == 4) return kSparse + bits;
    node_.refuse("bits = " + std::to_string(bits), "docs/layouts.md: n16k4s/1 has 3 or 4", kAgain);
  }
  if (layout_name_ == kQuintsName) {
    if (bits == 3) return kQuints;
    node_.refuse("bits = " + std::to_string(bits), "docs/layouts.md: n16k4q/1 has 3", kAgain);
  }
  return num_codes == 3 ? kTrits : bits;
}

void WeightInput::read_table() {
  const std::vector<int64_t> table = node_.integers("table");
  if (shape_.bits == kQuints) {
    if (table != kQuintTable || shape_.offset || shape_.has_zero_point) {
      node_.refuse("format " + format_ + " is not -2, -1, 0, 1, 2, 2, 2, 2 without sign and zero "
                   "point", "docs/layouts.md: n16k4q/1", kAgain);
    }
    // Codes are values less 2: no table is needed.
    shape_.offset = 2;
    shape_.max_byte = 4;
    absmax_ = 2;
    return;
  }
  if (table.empty()) return;
  has_table_ = true;
  const size_t size = static_cast<size_t>(node_.num_codes());
  if (size == 3 || table.size() != size || shape_.offset || shape_.has_zero_point) {
    node_.refuse("table of " + std::to_string(table.size()) + " values with bits = " +
                     std::to_string(node_.integer("bits")) + ", is_signed = " +
                     std::to_string(shape_.offset != 0) + ", has_zero_point = " +
                     std::to_string(shape_.has_zero_point),
                 "docs/ops.md: 2^bits values, is_signed = 0, has_zero_point = 0", kAgain);
  }
  const int64_t low = *std::min_element(table.begin(), table.end());
  const int64_t high = *std::max_element(table.begin(), table.end());
  if (low < -32768 || high > 32767) {
    node_.refuse("table reaches from " + std::to_string(low) + " to " + std::to_string(high),
                 "docs/ops.md: int16", "Scale the table down.");
  }
  const auto zero = std::find(table.begin(), table.end(), 0);
  if (is_sparse(shape_.bits) && zero == table.end()) {
    node_.refuse("table of " + format_ + " without 0", "docs/layouts.md: n16k4s/1 leaves zeros out",
                 kAgain);
  }
  shape_.zero_code = static_cast<int32_t>(zero - table.begin());
  absmax_ = static_cast<int32_t>(std::max(-low, high));
  float_table_.assign(table.begin(), table.end());
  if (low < -128 || high > 127) return;
  // The offset that makes the smallest bytes: 7-bit ones have the faster AVX2 product.
  shape_.offset = static_cast<int32_t>(low < 0 ? -low : 0);
  shape_.max_byte = static_cast<int32_t>(high) + shape_.offset;
  for (int64_t value : table) byte_table_.push_back(static_cast<uint8_t>(value + shape_.offset));
}

int64_t WeightInput::expected_bytes() const {
  const Weight& w = shape_;
  // An upper bound of every layout: padded outputs and chunks of a block, 8 bits, f32 scales.
  int64_t elements;
  if (__builtin_mul_overflow(w.N + kPanel, w.K + 64 * w.num_blocks, &elements) ||
      elements > (int64_t{1} << 56)) {
    node_.refuse("N = " + std::to_string(w.N) + ", K = " + std::to_string(w.K) +
                     " is more than 2^56 codes", "sizes are int64", "Split the weight.");
  }
  switch (layout_) {
    case LayoutKind::kN16K4: return n16k4_bytes(w);
    case LayoutKind::kKC: return kc_bytes(w);
    default: return w.N * rows_row_bytes(w);
  }
}

void WeightInput::check_buffer(const Tensor& buffer) const {
  const int64_t expected = group_bytes_ * groups_;
  if (buffer.type != ort::kUint8 || buffer.count != expected) {
    node_.refuse("W has " + std::to_string(buffer.count) + " bytes; " + layout_name_ + " of N = " +
                     std::to_string(N()) + ", K = " + std::to_string(K()) + ", " + format_ + " (" +
                     std::to_string(bits_) + " bits), block_size " +
                     std::to_string(shape_.block_size) + " needs " + std::to_string(expected),
                 "docs/layouts.md", kAgain);
  }
}

Weight WeightInput::weight(const uint8_t* buffer, int64_t group) const {
  Weight w = shape_;
  w.data = buffer + group * group_bytes_;
  w.byte_table = byte_table_.empty() ? nullptr : byte_table_.data();
  w.float_table = has_table_ ? float_table_.data() : nullptr;
  return w;
}

}  // namespace qcompile
