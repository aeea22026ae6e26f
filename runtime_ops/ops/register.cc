// SPDX-License-Identifier: Apache-2.0
// RegisterCustomOps, the library's only symbol: registers the domain com.qcompile.
#include <cstdlib>

#include "ops.h"

namespace qcompile {
namespace {

const ort::OrtApi* global_api = nullptr;
Kernels global_kernels;

ort::OrtStatus* add_domain(ort::OrtSessionOptions* options) {
  // Created once and never released: sessions keep pointers into it.
  static Definitions* definitions = nullptr;
  static ort::OrtCustomOpDomain* domain = nullptr;
  if (!definitions) {
    ort::OrtCustomOpDomain* fresh = nullptr;
    if (ort::OrtStatus* status = api().CreateCustomOpDomain("com.qcompile", &fresh)) return status;
    auto* list = new Definitions;
    add_qmatmul(list);
    add_qconv(list);
    add_qgather(list);
    add_qadd(list);
    add_qmul(list);
    add_qlut(list);
    add_qresize(list);
    add_qpool(list);
    add_qlayer_norm(list);
    add_qsoftmax(list);
    add_qattention(list);
    add_qdynamic_attention(list);
    add_hadamard(list);
    add_quantize(list);
    for (const OpDefinition& definition : *list) {
      if (ort::OrtStatus* status = api().CustomOpDomain_Add(fresh, &definition)) return status;
    }
    definitions = list;
    domain = fresh;
  }
  return api().AddCustomOpDomain(options, domain);
}

}  // namespace

const ort::OrtApi& api() { return *global_api; }
const Kernels& kernels() { return global_kernels; }

}  // namespace qcompile

extern "C" __attribute__((visibility("default"))) qcompile::ort::OrtStatus* RegisterCustomOps(
    qcompile::ort::OrtSessionOptions* options, const qcompile::ort::OrtApiBase* base) {
  using namespace qcompile;
  const ort::OrtApi* found = base->GetApi(ort::kApiVersion);
  // An ORT before 1.17 has no API 17, and so nothing to make a status with.
  if (!found) return nullptr;
  global_api = found;
  const char* message = nullptr;
  if (!choose_kernels(std::getenv("QCOMPILE_ISA"), &global_kernels, &message)) {
    return found->CreateStatus(ort::kInvalidArgument, message);
  }
  return add_domain(options);
}
