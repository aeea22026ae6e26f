// SPDX-License-Identifier: Apache-2.0
// A user's op library: y = x / 2 as Half of the domain user.ops, with no word about shapes.
#include "runtime_ops/ort_abi.h"

using namespace qcompile::ort;

namespace {

const OrtApi* api = nullptr;

OrtStatus* create(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel) {
  *kernel = nullptr;
  return nullptr;
}

OrtStatus* compute(void*, OrtKernelContext* context) {
  const OrtValue* x = nullptr;
  OrtValue* y = nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  size_t rank = 0, count = 1;
  int64_t dims[8] = {};
  api->KernelContext_GetInput(context, 0, &x);
  api->GetTensorTypeAndShape(x, &info);
  api->GetDimensionsCount(info, &rank);
  if (rank > 8) return api->CreateStatus(kInvalidArgument, "Half takes up to 8 axes");
  api->GetDimensions(info, dims, rank);
  api->ReleaseTensorTypeAndShapeInfo(info);
  for (size_t i = 0; i < rank; ++i) count *= static_cast<size_t>(dims[i]);
  api->KernelContext_GetOutput(context, 0, dims, rank, &y);
  void *from = nullptr, *to = nullptr;
  api->GetTensorMutableData(const_cast<OrtValue*>(x), &from);
  api->GetTensorMutableData(y, &to);
  for (size_t i = 0; i < count; ++i) {
    static_cast<float*>(to)[i] = static_cast<const float*>(from)[i] / 2;
  }
  return nullptr;
}

OrtCustomOp half() {
  OrtCustomOp op = {};
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp*) { return "Half"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return kFloat; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return kFloat; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.KernelDestroy = [](void*) {};
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return kRequired; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return kMemoryDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  return op;
}

}  // namespace

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  static OrtCustomOpDomain* domain = nullptr;
  static const OrtCustomOp op = half();
  api = base->GetApi(kApiVersion);
  if (!domain) {
    if (OrtStatus* status = api->CreateCustomOpDomain("user.ops", &domain)) return status;
    if (OrtStatus* status = api->CustomOpDomain_Add(domain, &op)) return status;
  }
  return api->AddCustomOpDomain(options, domain);
}
