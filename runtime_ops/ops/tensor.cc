// SPDX-License-Identifier: Apache-2.0
// Tensors of ORT: inputs, outputs, initializers, and the thread pool that works on them.
#include <utility>

#include "op.h"

namespace qcompile {

using namespace ort;

std::string to_string(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

int64_t count_elements(const std::vector<int64_t>& dims) {
  int64_t count = 1;
  bool is_empty = false;
  for (int64_t dim : dims) is_empty = is_empty || dim == 0;
  if (is_empty) return 0;
  for (int64_t dim : dims) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) {
      throw Refusal{kInvalidArgument, "a tensor of shape " + to_string(dims) +
                                          " has no int64 element count; make it smaller.",
                    false};
    }
  }
  return count;
}

Tensor view_of(const OrtValue* value) {
  Tensor tensor;
  if (!value) return tensor;
  OrtTensorTypeAndShapeInfo* info;
  check(api().GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  api().GetTensorElementType(info, &tensor.type);
  api().GetDimensionsCount(info, &rank);
  tensor.dims.resize(rank);
  api().GetDimensions(info, tensor.dims.data(), rank);
  api().ReleaseTensorTypeAndShapeInfo(info);
  tensor.count = count_elements(tensor.dims);
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

size_t Context::num_inputs() const {
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context_, &count));
  return count;
}

Tensor Context::input(size_t index) const {
  if (index >= num_inputs()) return Tensor();
  const OrtValue* value = nullptr;
  check(api().KernelContext_GetInput(context_, index, &value));
  return view_of(value);
}

Tensor Context::output(size_t index, std::vector<int64_t> dims) const {
  Tensor tensor;
  tensor.count = count_elements(dims);
  tensor.dims = std::move(dims);
  OrtValue* value = nullptr;
  check(api().KernelContext_GetOutput(context_, index, tensor.dims.data(), tensor.dims.size(),
                                      &value));
  if (value) check(api().GetTensorMutableData(value, &tensor.data));
  return tensor;
}

void Context::run_parallel(int64_t total, void* task, void (*call)(void*, size_t)) const {
  if (total <= 0) return;
  check(api().KernelContext_ParallelFor(context_, call, static_cast<size_t>(total), 0, task));
}

}  // namespace qcompile
