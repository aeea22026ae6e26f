// SPDX-License-Identifier: Apache-2.0
#include "weight_input.h"

#include <algorithm>
#include <cmath>

namespace qcompile {
namespace {

const char* const kAgain = "Pack the model again with this version of qcompile.";
// Bounds of N and K: every size below then fits int64 (N * K * bits <= 2^65 is excluded by the
// check of the product).
constexpr int64_t kMaxDim = int64_t{1} << 31;
// In the order of ScaleFormat.
const char* const kScaleFormats[] = {"none", "e8m0", "ue4m3", "f16", "bf16", "f32"};
constexpr int kNumScaleFormats = 6;

const char* const kSparseName = "n16k4s/1";
const char* const kQuintsName = "n16k4q/1";
const char* const kSpecialName = "n16k4p/1";
const char* const kCodebookName = "n16k4c/1";
const std::vector<int64_t> kQuintTable{-2, -1, 0, 1, 2, 2, 2, 2};

}  // namespace

WeightInput::WeightInput(const Node& node, int64_t groups) : node_(node), groups_(groups) {
  const int64_t abi = node_.integer("abi");
  if (abi != 1) {
    node_.refuse("abi = " + std::to_string(abi) + "; this library has abi 1", "docs/ops.md", kAgain);
  }
  layout_name_ = node_.text("layout");
  if (layout_name_ == "n16k4/1" || layout_name_ == kSparseName || layout_name_ == kQuintsName ||
      layout_name_ == kSpecialName || layout_name_ == kCodebookName) {
    layout_ = LayoutKind::kN16K4;
  } else if (layout_name_ == "kc/1") {
    layout_ = LayoutKind::kKC;
  } else if (layout_name_ == "rows/1") {
    layout_ = LayoutKind::kRows;
  } else {
    node_.refuse("layout = \"" + layout_name_ + "\"; this library has n16k4/1, n16k4s/1, "
                     "n16k4q/1, n16k4p/1, n16k4c/1, kc/1 and rows/1",
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
  read_scales();
  w.has_zero_point = node_.integer_between("has_zero_point", 0, 1);
  w.max_byte = num_codes - 1;
  w.offset = is_signed ? (w.max_byte + 1) / 2 : 0;
  w.zero_code = w.offset;
  absmax_ = w.has_zero_point ? w.max_byte : std::max(w.offset, w.max_byte - w.offset);
  read_codebook();
}

// Levels are stored as scales are, and in the place of all of them.
void WeightInput::read_codebook() {
  Weight& w = shape_;
  const bool has_codebook = node_.integer_between("has_codebook", 0, 1, 0);
  if (has_codebook != (layout_name_ == kCodebookName)) {
    node_.refuse("has_codebook = " + std::to_string(has_codebook) + " in layout " + layout_name_,
                 "docs/layouts.md: n16k4c/1 holds levels of every block, and nothing else", kAgain);
  }
  if (!has_codebook) return;
  const size_t entries = node_.integers("table").size();
  const bool is_float = w.scale_format == ScaleFormat::kF16 || w.scale_format == ScaleFormat::kF32;
  const bool is_plain = !w.offset && !w.has_zero_point && !entries && w.tensor_scale == 1;
  if (!is_float || !is_plain || w.bits > 4) {
    node_.refuse("has_codebook with bits = " + std::to_string(bits_) + ", is_signed = " +
                     std::to_string(w.offset != 0) + ", has_zero_point = " +
                     std::to_string(w.has_zero_point) + ", a table of " + std::to_string(entries) +
                     ", scale_format = " + node_.text("scale_format") + ", tensor_scale = " +
                     std::to_string(w.tensor_scale),
                 "docs/ops.md: 1 to 4 bits without sign, zero point and table, levels of f16 or f32",
                 kAgain);
  }
  w.level_bytes = w.scale_bytes;
  w.scale_bytes = 0;
}

void WeightInput::read_scales() {
  const std::string name = node_.text("scale_format");
  int found = -1;
  for (int i = 0; i < kNumScaleFormats; ++i) found = name == kScaleFormats[i] ? i : found;
  if (found < 0) {
    node_.refuse("scale_format = \"" + name + "\"; it is none, e8m0, ue4m3, f16, bf16 or f32",
                 "docs/ops.md", kAgain);
  }
  shape_.scale_format = static_cast<ScaleFormat>(found);
  shape_.scale_bytes = bytes_of(shape_.scale_format);
  shape_.tensor_scale = node_.number("tensor_scale", 1.0f);
  if (!(shape_.tensor_scale > 0) || std::isinf(shape_.tensor_scale)) {
    node_.refuse("tensor_scale = " + std::to_string(shape_.tensor_scale),
                 "docs/ops.md: a finite number above 0", "Correct it.");
  }
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

// The attribute holds entries less the least one: a number below 0 would take ten bytes of a file.
std::vector<int64_t> WeightInput::stored_table() const {
  std::vector<int64_t> table = node_.integers("table");
  const int64_t low = node_.integer("table_low", 0);
  for (int64_t& value : table) {
    const int64_t stored = value;
    if (__builtin_add_overflow(stored, low, &value)) {
      node_.refuse("table has " + std::to_string(stored) + " with table_low = " +
                       std::to_string(low), "docs/ops.md: their sum is an int64", kAgain);
    }
  }
  return table;
}

void WeightInput::read_table() {
  const std::vector<int64_t> table = stored_table();
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
  read_special(table);
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
  std::vector<int64_t> values = table;
  values.insert(values.end(), specials_.begin(), specials_.end());
  const int64_t low = *std::min_element(values.begin(), values.end());
  const int64_t high = *std::max_element(values.begin(), values.end());
  const auto zero = std::find(table.begin(), table.end(), 0);
  if (is_sparse(shape_.bits) && zero == table.end()) {
    node_.refuse("table of " + format_ + " without 0", "docs/layouts.md: n16k4s/1 leaves zeros out",
                 kAgain);
  }
  shape_.zero_code = static_cast<int32_t>(zero - table.begin());
  float_table_.assign(table.begin(), table.end());
  for (size_t i = 0; i < size; ++i) {
    if (static_cast<double>(float_table_[i]) == static_cast<double>(table[i]) &&
        std::abs(static_cast<double>(table[i])) < 0x1p62) continue;
    node_.refuse("table[" + std::to_string(i) + "] = " + std::to_string(table[i]),
                 "docs/ops.md: integers that a float32 holds", "Round the table.");
  }
  absmax_ = std::max(-low, high);
  make_planes(table, low, high);
  number_specials();
}

void WeightInput::read_special(const std::vector<int64_t>& table) {
  shape_.has_special = node_.integer_between("has_special", 0, 1, 0);
  if (layout_ == LayoutKind::kN16K4 && shape_.has_special != (layout_name_ == kSpecialName)) {
    node_.refuse("has_special = " + std::to_string(shape_.has_special) + " in layout " +
                     layout_name_,
                 "docs/layouts.md: n16k4p/1 holds special values, and nothing else", kAgain);
  }
  if (!shape_.has_special) return;
  shape_.special_code = static_cast<int>(node_.integer_between("special_code", 0, 255, 0));
  specials_ = node_.integers("specials");
  bool fits = !specials_.empty() && (shape_.bits == 3 || shape_.bits == 4) &&
              shape_.special_code < (1 << shape_.bits);
  const auto is_byte = [](int64_t value) { return value >= -127 && value <= 127; };
  fits = fits && std::all_of(specials_.begin(), specials_.end(), is_byte) &&
         std::all_of(table.begin(), table.end(), is_byte);
  if (fits && !table.empty()) return;
  node_.refuse("has_special with special_code = " + std::to_string(shape_.special_code) + ", " +
                   std::to_string(specials_.size()) + " specials, a table of " +
                   std::to_string(table.size()),
               "docs/ops.md: a table of 3 or 4 bits, one of its codes, specials of -127 ... 127",
               kAgain);
}

// The bytes that integer products look up: value + offset, or two planes of int16, or none.
void WeightInput::make_planes(const std::vector<int64_t>& table, int64_t low, int64_t high) {
  if (low < -32768 || high > 32767) return;
  const bool is_wide = low < -128 || high > 127;
  // The offset that makes the smallest bytes: 7-bit ones have the faster AVX2 product.
  shape_.offset = static_cast<int32_t>(low < 0 && !is_wide ? -low : 0);
  shape_.max_byte = is_wide ? 255 : static_cast<int32_t>(high) + shape_.offset;
  shape_.high_offset = 128;
  shape_.largest_entry = static_cast<int32_t>(std::max(-low, high));
  for (int64_t value : table) {
    byte_table_.push_back(static_cast<uint8_t>(value + shape_.offset));
    if (is_wide) high_table_.push_back(static_cast<uint8_t>((value + 32768) / 256));
  }
}

// Two bits, as kernels have them free, tell at most four special values from one another.
void WeightInput::number_specials() {
  constexpr size_t kMost = 4, kCodes = 16;
  std::vector<int64_t> values = specials_;
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (values.empty() || values.size() > kMost) return;
  special_table_.assign(kMost * kCodes, 0);
  special_places_.assign(256, 0);
  for (size_t i = 0; i < values.size(); ++i) {
    uint8_t* row = special_table_.data() + i * kCodes;
    std::copy(byte_table_.begin(), byte_table_.end(), row);
    row[shape_.special_code] = static_cast<uint8_t>(values[i] + shape_.offset);
    special_places_[static_cast<uint8_t>(values[i])] = static_cast<uint8_t>(i * kCodes);
  }
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
  if (layout_name_ == kSpecialName) check_specials(buffer.as<uint8_t>());
}

// Kernels number the special values of panels, so a byte that is none of them would mean one thing
// here and another there. Those of other layouts mean themselves; rows are many, and stay unread.
void WeightInput::check_specials(const uint8_t* buffer) const {
  bool is_known[256] = {};
  for (int64_t value : specials_) is_known[static_cast<uint8_t>(value)] = true;
  for (int64_t group = 0; group < groups_; ++group) {
    const Weight w = weight(buffer, group);
    for (int64_t panel = 0; panel < n16k4_num_panels(w); ++panel) {
      const int tiles = n16k4_tiles(w, panel);
      const int64_t outputs = std::min<int64_t>(w.N - panel * kPanel, kPanel);
      const uint8_t* const first = n16k4_panel(w, panel) - n16k4_lead_bytes(w, tiles);
      for (int64_t b = 0; b < w.num_blocks; ++b) {
        const uint8_t* const points = first + b * n16k4_block_bytes(w, 0, tiles);
        const uint8_t* const end = points + outputs;
        const uint8_t* const odd =
            std::find_if(points, end, [&](uint8_t byte) { return !is_known[byte]; });
        if (odd == end) continue;
        node_.refuse("W has the special value " + std::to_string(static_cast<int8_t>(*odd)) +
                         " in block " + std::to_string(b) + " of output " +
                         std::to_string(group * w.N + panel * kPanel + (odd - points)),
                     "docs/layouts.md: n16k4p/1 has those of the attribute specials",
                     "Copy the file again, or pack the model again.");
      }
    }
  }
}

Weight WeightInput::weight(const uint8_t* buffer, int64_t group) const {
  Weight w = shape_;
  w.data = buffer + group * group_bytes_;
  w.byte_table = byte_table_.empty() ? nullptr : byte_table_.data();
  w.high_table = high_table_.empty() ? nullptr : high_table_.data();
  w.special_table = special_table_.empty() ? nullptr : special_table_.data();
  w.special_places = special_places_.empty() ? nullptr : special_places_.data();
  w.float_table = has_table_ ? float_table_.data() : nullptr;
  return w;
}

}  // namespace qcompile
