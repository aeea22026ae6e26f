// SPDX-License-Identifier: Apache-2.0
// The inputs of a product besides X: weight, bias, multiplier. Initializers, which they are as a
// rule, are read and checked once, at creation: an ORT tensor costs as much as a small product.
#pragma once

#include <vector>

#include "activation.h"

namespace qcompile {

struct ProductOperands {
  const uint8_t* weight = nullptr;
  const void* bias = nullptr;               // float, or int32 when static; null: none
  const void* multiplier = nullptr;         // static only: float [N], or int32 [2, N] (N12)
  const int64_t* corrections = nullptr;     // static n16k4 weights only, N11
};

class Operands {
 public:
  // The three objects must outlive this one.
  Operands(const Node& node, const WeightInput& weight, const Activation& activation);
  // Those that are initializers, the others null.
  const ProductOperands& constants() const { return constant_; }
  // Whether operands of an execution are initializers, all of them.
  bool are_constant(const ProductOperands& o) const {
    return o.weight == constant_.weight && o.bias == constant_.bias &&
           o.multiplier == constant_.multiplier;
  }
  // The operands of one execution; `fresh` holds the corrections of a weight that is no initializer.
  ProductOperands read(const Context& context, std::vector<int64_t>* fresh) const;

 private:
  std::vector<int64_t> corrections_of(const uint8_t* weight) const;
  const WeightInput& weight_;
  const Activation& activation_;
  ProductOperands constant_;
  std::vector<int64_t> corrections_;
};

}  // namespace qcompile
