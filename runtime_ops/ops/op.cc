// SPDX-License-Identifier: Apache-2.0
// The border of the library: ORT's table of an op, and exceptions that become statuses.
#include "op.h"

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

#ifdef QC_SANITIZE
constexpr bool kIsExact = true;  // no rest of an earlier use hides what lies beyond the end
#else
constexpr bool kIsExact = false;
#endif

void* Scratch::bytes(int64_t size) {
  // 64 more than asked: kernels may read one vector beyond the end.
  const int64_t needed = size + 64;
  if (kIsExact || needed > size_) {
    std::free(memory_);
    memory_ = nullptr;
    size_ = 0;
    if (posix_memalign(&memory_, 64, static_cast<size_t>(needed))) throw std::bad_alloc();
    size_ = needed;
  }
  return memory_;
}

}  // namespace qcompile
