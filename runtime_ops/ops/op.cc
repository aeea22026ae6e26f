// SPDX-License-Identifier: Apache-2.0
#include "op.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

namespace qcompile {

using namespace ort;

void check(OrtStatus* status) {
  if (!status) return;
  Refusal refusal{api().GetErrorCode(status), api().GetErrorMessage(status), false};
  api().ReleaseStatus(status);
  throw refusal;
}

namespace {

// True where the call succeeded; a failure is dropped.
bool succeeded(OrtStatus* status) {
  if (status) api().ReleaseStatus(status);
  return !status;
}

Tensor view(const OrtValue* value) {
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

}  // namespace

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

int64_t Node::integer(const char* name, int64_t absent) const {
  int64_t value = absent;
  return succeeded(api().KernelInfoGetAttribute_int64(info_, name, &value)) ? value : absent;
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
  const int64_t value = integer(name);
  if (value < low || value > high) {
    refuse(std::string(name) + " = " + std::to_string(value) + " is not in " + std::to_string(low) +
               " ... " + std::to_string(high),
           "docs/ops.md", std::string("Correct ") + name + ".");
  }
  return value;
}

float Node::number(const char* name, float absent) const {
  float value = absent;
  return succeeded(api().KernelInfoGetAttribute_float(info_, name, &value)) ? value : absent;
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
  if (size == 0) return absent;
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
  if (!succeeded(api().KernelInfoGetAttributeArray_int64(info_, name, nullptr, &count))) return {};
  std::vector<int64_t> values(count);
  if (count) check(api().KernelInfoGetAttributeArray_int64(info_, name, values.data(), &count));
  return values;
}

std::vector<float> Node::numbers(const char* name) const {
  size_t count = 0;
  if (!succeeded(api().KernelInfoGetAttributeArray_float(info_, name, nullptr, &count))) return {};
  std::vector<float> values(count);
  if (count) check(api().KernelInfoGetAttributeArray_float(info_, name, values.data(), &count));
  return values;
}

Tensor Node::constant(size_t input) const {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  if (!succeeded(api().KernelInfoGetConstantInput_tensor(info_, input, &is_constant, &value)) ||
      !is_constant) {
    return Tensor();
  }
  return view(value);
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
  return view(value);
}

Tensor Context::output(size_t index, const std::vector<int64_t>& dims) const {
  Tensor tensor;
  tensor.dims = dims;
  tensor.count = count_elements(dims);
  OrtValue* value = nullptr;
  check(api().KernelContext_GetOutput(context_, index, dims.data(), dims.size(), &value));
  if (value) check(api().GetTensorMutableData(value, &tensor.data));
  return tensor;
}

void Context::run_parallel(int64_t total, void* task, void (*call)(void*, size_t)) const {
  if (total <= 0) return;
  check(api().KernelContext_ParallelFor(context_, call, static_cast<size_t>(total), 0, task));
}

bool ShapeContext::input(size_t index, std::vector<Dim>* dims, TensorType* type) const {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (!succeeded(api().ShapeInferContext_GetInputTypeShape(context_, index, &info)) || !info) {
    return false;
  }
  size_t rank = 0;
  api().GetTensorElementType(info, type);
  api().GetDimensionsCount(info, &rank);
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> names(rank, "");
  api().GetDimensions(info, sizes.data(), rank);
  api().GetSymbolicDimensions(info, names.data(), rank);
  dims->clear();
  for (size_t i = 0; i < rank; ++i) dims->push_back({sizes[i], names[i] ? names[i] : ""});
  // `info` belongs to the context.
  return rank > 0;
}

const OrtOpAttr* ShapeContext::attribute(const char* name) const {
  const OrtOpAttr* attribute = nullptr;
  return succeeded(api().ShapeInferContext_GetAttribute(context_, name, &attribute)) ? attribute
                                                                                     : nullptr;
}

bool ShapeContext::integer(const char* name, int64_t* out) const {
  const OrtOpAttr* a = attribute(name);
  size_t size = 0;
  return a && succeeded(api().ReadOpAttr(a, kAttributeInt, out, sizeof *out, &size));
}

bool ShapeContext::integers(const char* name, std::vector<int64_t>* out) const {
  out->clear();
  const OrtOpAttr* a = attribute(name);
  if (!a) return false;
  size_t bytes = 0;
  succeeded(api().ReadOpAttr(a, kAttributeInts, nullptr, 0, &bytes));  // fails, and tells the size
  out->resize(bytes / sizeof(int64_t));
  return bytes == 0 || succeeded(api().ReadOpAttr(a, kAttributeInts, out->data(), bytes, &bytes));
}

bool ShapeContext::text(const char* name, std::string* out) const {
  const OrtOpAttr* a = attribute(name);
  if (!a) return false;
  size_t bytes = 0;
  succeeded(api().ReadOpAttr(a, kAttributeString, nullptr, 0, &bytes));
  out->assign(bytes, '\0');
  if (bytes && !succeeded(api().ReadOpAttr(a, kAttributeString, &(*out)[0], bytes, &bytes))) {
    return false;
  }
  while (!out->empty() && out->back() == '\0') out->pop_back();
  return true;
}

void ShapeContext::set_output(size_t index, TensorType type, const std::vector<Dim>& dims) const {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().CreateTensorTypeAndShapeInfo(&info));
  std::vector<int64_t> sizes;
  std::vector<std::string> texts;
  // ORT writes a nameless unknown size as the value -1, which it later takes for a size: every unknown
  // one gets a name, and no two share one.
  static std::atomic<uint64_t> unnamed{0};
  for (const Dim& dim : dims) {
    sizes.push_back(dim.size);
    const bool needs_name = dim.size < 0 && dim.name.empty();
    texts.push_back(dim.size >= 0 ? "" : needs_name ? "qc_dim_" + std::to_string(unnamed++) : dim.name);
  }
  std::vector<const char*> names;
  for (const std::string& text : texts) names.push_back(text.c_str());
  OrtStatus* status = api().SetDimensions(info, sizes.data(), sizes.size());
  if (!status) status = api().SetSymbolicDimensions(info, names.data(), names.size());
  if (!status) status = api().SetTensorElementType(info, type);
  if (!status) status = api().ShapeInferContext_SetOutputTypeShape(context_, index, info);
  api().ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

namespace {

const OpDefinition& self(const OrtCustomOp* op) { return *static_cast<const OpDefinition*>(op); }

// Runs `body`; what it throws becomes a status. No exception may cross the C ABI.
template <class Body>
OrtStatus* guarded(const char* op, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Refusal& refusal) {
    const std::string text = (refusal.names_node ? "" : std::string(op) + ": ") + refusal.message;
    return api().CreateStatus(refusal.code, text.c_str());
  } catch (const std::bad_alloc&) {
    return api().CreateStatus(kFail, (std::string(op) + ": out of memory.").c_str());
  }
}

struct Instance {
  const OpDefinition* definition;
  std::unique_ptr<OpKernel> kernel;
};

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) {
  return guarded(self(op).op_name, [&] {
    const Node node(self(op).op_name, info);
    *kernel = new Instance{&self(op), self(op).create(node)};
  });
}

OrtStatus* compute_kernel(void* kernel, OrtKernelContext* context) {
  const Instance& instance = *static_cast<Instance*>(kernel);
  return guarded(instance.definition->op_name,
                 [&] { instance.kernel->compute(Context(context)); });
}

OrtStatus* infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded(self(op).op_name, [&] { self(op).infer(ShapeContext(context)); });
}

}  // namespace

OpDefinition::OpDefinition(const char* name, std::vector<Port> in, std::vector<Port> out, Create c,
                           Infer i)
    : OrtCustomOp{}, op_name(name), inputs(std::move(in)), outputs(std::move(out)), create(c),
      infer(i) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp* op) { return self(op).op_name; };
  GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CPUExecutionProvider";
  };
  GetInputType = [](const OrtCustomOp* op, size_t i) { return self(op).inputs[i].type; };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).inputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t i) { return self(op).outputs[i].type; };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).outputs.size(); };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return self(op).inputs[i].characteristic;
  };
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return self(op).outputs[i].characteristic;
  };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kMemoryDefault; };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = compute_kernel;
  InferOutputShapeFn = infer_shape;
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
}

Scratch::~Scratch() { std::free(memory_); }

void* Scratch::bytes(int64_t size) {
  // 64 more than asked: kernels may read one vector beyond the end.
  const int64_t needed = (size + 127) / 64 * 64;
  if (needed > size_) {
    std::free(memory_);
    size_ = 0;
    memory_ = std::aligned_alloc(64, static_cast<size_t>(needed));
    if (!memory_) throw std::bad_alloc();
    size_ = needed;
  }
  return memory_;
}

}  // namespace qcompile
