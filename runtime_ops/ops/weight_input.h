// SPDX-License-Identifier: Apache-2.0
// The packed weight of a node: its attributes, and the check of its buffer against its layout.
#pragma once

#include <vector>

#include "op.h"

namespace qcompile {

enum class LayoutKind { kN16K4, kKC, kRows };

class WeightInput {
 public:
  // Reads and checks the attributes. `groups`: that many weights [N / groups, K] follow one another.
  WeightInput(const Node& node, int64_t groups = 1);

  // Checks the buffer; from then on weight(g) may be used with it.
  void check_buffer(const Tensor& buffer) const;
  // Null: the weight without its data.
  Weight weight(const uint8_t* buffer, int64_t group = 0) const;
  LayoutKind layout() const { return layout_; }
  int64_t N() const { return shape_.N * groups_; }
  int64_t K() const { return shape_.K; }
  // Sizes alone: neither data nor tables.
  const Weight& shape() const { return shape_; }
  const std::string& format() const { return format_; }
  // The greatest |code - zero_point| or |table value|.
  int64_t absmax() const { return absmax_; }
  // Whether integer products take the weight: no table, or one of int16.
  bool has_integers() const { return !has_table_ || !byte_table_.empty(); }

 private:
  void read_shape();
  void read_scales();
  void read_codebook();
  int packing() const;
  void read_table();
  std::vector<int64_t> stored_table() const;
  void read_special(const std::vector<int64_t>& table);
  void make_planes(const std::vector<int64_t>& table, int64_t low, int64_t high);
  void number_specials();
  void check_specials(const uint8_t* buffer) const;
  int64_t expected_bytes() const;  // of one group
  const Node node_;
  int64_t groups_, group_bytes_ = 0;
  LayoutKind layout_ = LayoutKind::kN16K4;
  std::string layout_name_, format_;
  Weight shape_;  // without data; N is that of one group
  int64_t absmax_ = 0;
  int bits_ = 0;  // as the attribute says; Weight::bits is the packing, too
  bool has_table_ = false;
  std::vector<uint8_t> byte_table_;   // empty where the table does not fit int16
  std::vector<uint8_t> high_table_;   // empty where it fits int8
  std::vector<int64_t> specials_;     // what special bytes may be
  std::vector<uint8_t> special_table_, special_places_;  // Weight::special_table, special_places
  std::vector<float> float_table_;
};

}  // namespace qcompile
