// SPDX-License-Identifier: Apache-2.0
#include "operands.h"

#include "huge_pages.h"

namespace qcompile {
namespace {

constexpr size_t kWeight = 1, kBias = 2, kMultiplier = 3;  // places of the inputs

}  // namespace

Operands::Operands(const Node& node, const WeightInput& weight, const Activation& activation)
    : weight_(weight), activation_(activation) {
  const Tensor buffer = node.constant(kWeight), bias = node.constant(kBias);
  const Tensor multiplier = node.constant(kMultiplier);
  if (buffer.type != ort::kUndefined) {
    weight_.check_buffer(buffer);
    prefer_huge_pages(buffer.data, buffer.count);
    constant_.weight = buffer.as<uint8_t>();
    corrections_ = corrections_of(constant_.weight);
    constant_.corrections = corrections_.data();
  }
  if (bias.type != ort::kUndefined) {
    activation_.check_bias(bias);
    constant_.bias = bias.data;
  }
  if (multiplier.type != ort::kUndefined && activation_.is_static()) {
    activation_.check_multiplier(multiplier);
    constant_.multiplier = multiplier.data;
  }
}

std::vector<int64_t> Operands::corrections_of(const uint8_t* weight) const {
  if (!activation_.is_static() || weight_.layout() != LayoutKind::kN16K4) return {};
  return activation_.corrections(weight_, weight);
}

ProductOperands Operands::read(const Context& context, std::vector<int64_t>* fresh) const {
  ProductOperands operands = constant_;
  if (!operands.weight) {
    const Tensor buffer = context.input(kWeight);
    weight_.check_buffer(buffer);
    operands.weight = buffer.as<uint8_t>();
    *fresh = corrections_of(operands.weight);
    operands.corrections = fresh->data();
  }
  if (!operands.bias) {
    const Tensor bias = context.input(kBias);
    if (bias.type != ort::kUndefined) activation_.check_bias(bias);
    operands.bias = bias.data;
  }
  if (!operands.multiplier && activation_.is_static()) {
    const Tensor multiplier = context.input(kMultiplier);
    activation_.check_multiplier(multiplier);
    operands.multiplier = multiplier.data;
  }
  return operands;
}

}  // namespace qcompile
