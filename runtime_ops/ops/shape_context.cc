// SPDX-License-Identifier: Apache-2.0
#include <atomic>

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

}  // namespace qcompile
