// SPDX-License-Identifier: Apache-2.0
// The attributes of a node at session creation.
#include "op.h"

namespace qcompile {

using namespace ort;

namespace {

// True where the call succeeded; a failure is dropped.
bool succeeded(OrtStatus* status) {
  if (status) api().ReleaseStatus(status);
  return !status;
}

}  // namespace

Node::Node(const char* op, const OrtKernelInfo* info) : info_(info) {
  size_t size = 0;
  succeeded(api().KernelInfo_GetNodeName(info, nullptr, &size));
  std::string name(size, '\0');
  if (size && !succeeded(api().KernelInfo_GetNodeName(info, &name[0], &size))) name.clear();
  while (!name.empty() && name.back() == '\0') name.pop_back();
  title_ = std::string(op) + " \"" + name + "\"";
}

void Node::refuse(const std::string& what, const std::string& rule, const std::string& cure) const {
  throw Refusal{kInvalidArgument, title_ + ": " + what + " (" + rule + "). " + cure, true};
}

void Node::check_absent(const char* name, const char* type, bool is_list) const {
  int64_t i = 0;
  float f = 0;
  size_t size = 0, ints = 0, floats = 0;
  const bool is_scalar = succeeded(api().KernelInfoGetAttribute_int64(info_, name, &i)) ||
                         succeeded(api().KernelInfoGetAttribute_float(info_, name, &f)) ||
                         succeeded(api().KernelInfoGetAttribute_string(info_, name, nullptr, &size));
  // ORT gives an empty list for an attribute of another type, as for an empty one.
  const bool has_ints = succeeded(api().KernelInfoGetAttributeArray_int64(info_, name, nullptr, &ints));
  const bool has_floats =
      succeeded(api().KernelInfoGetAttributeArray_float(info_, name, nullptr, &floats));
  const bool is_other_list = is_list ? ints + floats > 0 : has_ints || has_floats;
  if (!is_scalar && !is_other_list) return;
  refuse(std::string("attribute ") + name + " is no " + type, "docs/ops.md",
         "Write the model again with this version of qcompile.");
}

int64_t Node::integer(const char* name, int64_t absent) const {
  int64_t value = absent;
  if (succeeded(api().KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  check_absent(name, "int");
  return absent;
}

int64_t Node::integer(const char* name) const {
  int64_t value = 0;
  if (!succeeded(api().KernelInfoGetAttribute_int64(info_, name, &value))) {
    refuse(std::string("attribute ") + name + " is missing or no int", "docs/ops.md",
           "Write the model again with this version of qcompile.");
  }
  return value;
}

int64_t Node::integer_between(const char* name, int64_t low, int64_t high) const {
  return integer_between(name, low, high, integer(name));
}

int64_t Node::integer_between(const char* name, int64_t low, int64_t high, int64_t absent) const {
  const int64_t value = integer(name, absent);
  if (value < low || value > high) {
    refuse(std::string(name) + " = " + std::to_string(value) + " is not in " + std::to_string(low) +
               " ... " + std::to_string(high),
           "docs/ops.md", std::string("Correct ") + name + ".");
  }
  return value;
}

int Node::num_codes() const {
  const int64_t bits = integer_between("bits", 1, 8), levels = integer("levels", 0);
  if (levels != 0 && (levels != 3 || bits != 2)) {
    refuse("levels = " + std::to_string(levels) + " with bits = " + std::to_string(bits),
           "docs/ops.md: 3 with 2 bits, or absent",
           "Write the model again with this version of qcompile.");
  }
  return levels ? static_cast<int>(levels) : 1 << bits;
}

float Node::number(const char* name, float absent) const {
  float value = absent;
  if (succeeded(api().KernelInfoGetAttribute_float(info_, name, &value))) return value;
  check_absent(name, "float");
  return absent;
}

float Node::reach(const char* name, int32_t limit) const {
  const float least = static_cast<float>(limit), value = number(name, least);
  if (!(value >= least && value <= 8 * least)) {
    refuse(std::string(name) + " = " + std::to_string(value) + "; it is from " +
               std::to_string(limit) + " to " + std::to_string(8 * limit),
           "docs/numerics.md N4: the largest code to 8 times that", "Correct it.");
  }
  return value;
}

float Node::number(const char* name) const {
  float value = 0;
  if (!succeeded(api().KernelInfoGetAttribute_float(info_, name, &value))) {
    refuse(std::string("attribute ") + name + " is missing or no float", "docs/ops.md",
           "Write the model again with this version of qcompile.");
  }
  return value;
}

std::string Node::text(const char* name, const char* absent) const {
  size_t size = 0;
  succeeded(api().KernelInfoGetAttribute_string(info_, name, nullptr, &size));
  if (size == 0) {
    check_absent(name, "string");
    return absent;
  }
  std::string value(size, '\0');
  if (!succeeded(api().KernelInfoGetAttribute_string(info_, name, &value[0], &size))) return absent;
  while (!value.empty() && value.back() == '\0') value.pop_back();
  return value;
}

std::string Node::text(const char* name) const {
  const std::string value = text(name, "");
  if (value.empty()) {
    refuse(std::string("attribute ") + name + " is missing or no string", "docs/ops.md",
           "Write the model again with this version of qcompile.");
  }
  return value;
}

std::vector<int64_t> Node::integers(const char* name) const {
  size_t count = 0;
  if (!succeeded(api().KernelInfoGetAttributeArray_int64(info_, name, nullptr, &count)) || !count) {
    check_absent(name, "list of ints", true);
    return {};
  }
  std::vector<int64_t> values(count);
  check(api().KernelInfoGetAttributeArray_int64(info_, name, values.data(), &count));
  return values;
}

std::vector<float> Node::numbers(const char* name) const {
  size_t count = 0;
  if (!succeeded(api().KernelInfoGetAttributeArray_float(info_, name, nullptr, &count)) || !count) {
    check_absent(name, "list of floats", true);
    return {};
  }
  std::vector<float> values(count);
  check(api().KernelInfoGetAttributeArray_float(info_, name, values.data(), &count));
  return values;
}

Tensor Node::constant(size_t input) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  if (!succeeded(api().KernelInfoGetConstantInput_tensor(info_, input, &is_constant, &value)) ||
      !is_constant) {
    return Tensor();
  }
  return view_of(value);
}

}  // namespace qcompile
