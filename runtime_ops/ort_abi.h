// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that this library uses (API 17, ORT 1.17 and later).
// The onnxruntime wheel ships no headers. OrtApi is an append-only table of function pointers, so
// a slot number never changes; the table at the end of this file is checked by the compiler here
// and can be checked against the official header elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcompile::ort {

constexpr uint32_t kApiVersion = 17;

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtCustomOp;

enum ErrorCode : int {
  kFail = 1,
  kInvalidArgument = 2,
  kRuntimeException = 6,
  kNotImplemented = 9,
  kInvalidGraph = 10,
};
enum TensorType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt32 = 6,
  kInt64 = 7,
};
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kMemoryDefault = 0 };
enum AttributeType : int {
  kAttributeInt = 1,
  kAttributeInts = 2,
  kAttributeFloat = 3,
  kAttributeString = 5,
};

struct OrtApi {
  OrtStatus* (*CreateStatus)(ErrorCode code, const char* message);
  ErrorCode (*GetErrorCode)(const OrtStatus*);
  const char* (*GetErrorMessage)(const OrtStatus*);
  void* unused_3[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain*, const OrtCustomOp*);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions*, OrtCustomOpDomain*);
  void* unused_29[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void** out);
  void* unused_52[5];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo*, TensorType);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo*, const int64_t* dims, size_t rank);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, TensorType* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t rank);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo*, const char** names,
                                      size_t rank);
  void* unused_64[1];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo** out);
  void* unused_66[19];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo*, const char* name, float* out);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo*, const char* name, int64_t* out);
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo*, const char* name, char* out,
                                              size_t* size);
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext*, size_t* out);
  OrtStatus* (*KernelContext_GetOutputCount)(const OrtKernelContext*, size_t* out);
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext*, size_t index,
                                       const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext*, size_t index, const int64_t* dims,
                                        size_t rank, OrtValue** out);
  void* unused_92[1];
  void (*ReleaseStatus)(OrtStatus*);
  void* unused_94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void* unused_100[62];
  OrtStatus* (*KernelInfoGetAttributeArray_float)(const OrtKernelInfo*, const char* name,
                                                  float* out, size_t* size);
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo*, const char* name,
                                                  int64_t* out, size_t* size);
  void* unused_164[80];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo*, char* out, size_t* size);
  void* unused_245[4];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo*, size_t index,
                                                  int* is_constant, const OrtValue** out);
  void* unused_250[17];
  OrtStatus* (*ShapeInferContext_GetInputCount)(const OrtShapeInferContext*, size_t* out);
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext*, size_t index,
                                                    OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext*, const char* name,
                                               const OrtOpAttr** out);
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext*, size_t index,
                                                     const OrtTensorTypeAndShapeInfo*);
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo*, const char** names, size_t rank);
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr*, AttributeType, void* data, size_t bytes, size_t* out);
  void* unused_273[1];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext*, void (*fn)(void*, size_t),
                                          size_t total, size_t num_batches, void* user_data);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  TensorType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  TensorType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  MemoryType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

#define QC_SLOT(function, slot)                                          \
  static_assert(offsetof(OrtApi, function) == (slot) * sizeof(void*),    \
                #function " is not in slot " #slot " of the ORT API table")
QC_SLOT(CreateStatus, 0);
QC_SLOT(GetErrorCode, 1);
QC_SLOT(GetErrorMessage, 2);
QC_SLOT(CreateCustomOpDomain, 26);
QC_SLOT(CustomOpDomain_Add, 27);
QC_SLOT(AddCustomOpDomain, 28);
QC_SLOT(GetTensorMutableData, 51);
QC_SLOT(CreateTensorTypeAndShapeInfo, 57);
QC_SLOT(SetTensorElementType, 58);
QC_SLOT(SetDimensions, 59);
QC_SLOT(GetTensorElementType, 60);
QC_SLOT(GetDimensionsCount, 61);
QC_SLOT(GetDimensions, 62);
QC_SLOT(GetSymbolicDimensions, 63);
QC_SLOT(GetTensorTypeAndShape, 65);
QC_SLOT(KernelInfoGetAttribute_float, 85);
QC_SLOT(KernelInfoGetAttribute_int64, 86);
QC_SLOT(KernelInfoGetAttribute_string, 87);
QC_SLOT(KernelContext_GetInputCount, 88);
QC_SLOT(KernelContext_GetOutputCount, 89);
QC_SLOT(KernelContext_GetInput, 90);
QC_SLOT(KernelContext_GetOutput, 91);
QC_SLOT(ReleaseStatus, 93);
QC_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
QC_SLOT(KernelInfoGetAttributeArray_float, 162);
QC_SLOT(KernelInfoGetAttributeArray_int64, 163);
QC_SLOT(KernelInfo_GetNodeName, 244);
QC_SLOT(KernelInfoGetConstantInput_tensor, 249);
QC_SLOT(ShapeInferContext_GetInputCount, 267);
QC_SLOT(ShapeInferContext_GetInputTypeShape, 268);
QC_SLOT(ShapeInferContext_GetAttribute, 269);
QC_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
QC_SLOT(SetSymbolicDimensions, 271);
QC_SLOT(ReadOpAttr, 272);
QC_SLOT(KernelContext_ParallelFor, 274);
#undef QC_SLOT

#define QC_WORD(member, word)                                            \
  static_assert(offsetof(OrtCustomOp, member) == (word) * sizeof(void*), \
                #member " is not word " #word " of OrtCustomOp")
QC_WORD(version, 0);
QC_WORD(CreateKernel, 1);
QC_WORD(GetInputType, 4);
QC_WORD(KernelCompute, 8);
QC_WORD(GetInputCharacteristic, 10);
QC_WORD(GetInputMemoryType, 12);
QC_WORD(GetVariadicInputMinArity, 13);
QC_WORD(CreateKernelV2, 17);
QC_WORD(KernelComputeV2, 18);
QC_WORD(InferOutputShapeFn, 19);
QC_WORD(GetEndVersion, 21);
#undef QC_WORD

}  // namespace qcompile::ort
