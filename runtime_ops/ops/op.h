// SPDX-License-Identifier: Apache-2.0
// What every op needs of ONNX Runtime: attributes, tensors, refusals, the thread pool, registration.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../kernels/kernels.h"
#include "../ort_abi.h"

namespace qcompile {

// Set once by RegisterCustomOps, before any op exists.
const ort::OrtApi& api();
const Kernels& kernels();

// A refusal: becomes an ORT status at the border of the library.
struct Refusal {
  ort::ErrorCode code;
  std::string message;
  bool names_node = false;  // else the op's name is put before it
};

// The status of an ORT call that must not fail, as a Refusal.
void check(ort::OrtStatus* status);

struct Tensor {
  ort::TensorType type = ort::kUndefined;
  std::vector<int64_t> dims;
  int64_t count = 0;
  void* data = nullptr;

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};
// What ORT says of a value; a Tensor without type for null.
Tensor view_of(const ort::OrtValue* value);
std::string to_string(const std::vector<int64_t>& dims);
// The product of dims; refuses a negative dim and a product beyond int64.
int64_t count_elements(const std::vector<int64_t>& dims);

// One node at session creation: its attributes and constant inputs.
class Node {
 public:
  Node(const char* op, const ort::OrtKernelInfo* info);

  // `op "node": what` [rule]. cure.
  [[noreturn]] void refuse(const std::string& what, const std::string& rule,
                           const std::string& cure) const;
  int64_t integer(const char* name) const;  // required
  int64_t integer(const char* name, int64_t absent) const;
  int64_t integer_between(const char* name, int64_t low, int64_t high) const;  // required
  int64_t integer_between(const char* name, int64_t low, int64_t high, int64_t absent) const;
  float number(const char* name) const;
  float number(const char* name, float absent) const;
  // The largest |x| in scales, N4: from `limit`, which it is where absent, to 8 times that.
  float reach(const char* name, int32_t limit) const;
  std::string text(const char* name) const;
  std::string text(const char* name, const char* absent) const;
  std::vector<int64_t> integers(const char* name) const;  // empty where absent
  int num_codes() const;  // 2^bits, or levels
  std::vector<float> numbers(const char* name) const;
  // The initializer that feeds an input, or a Tensor without type.
  Tensor constant(size_t input) const;
  const std::string& title() const { return title_; }

 private:
  // Refuses an attribute that is there and of another type: absent would mean its default.
  void check_absent(const char* name, const char* type, bool is_list = false) const;
  const ort::OrtKernelInfo* info_;
  std::string title_;
};

// One execution of a node.
class Context {
 public:
  explicit Context(ort::OrtKernelContext* context) : context_(context) {}
  Tensor input(size_t index) const;  // without type where an optional input is absent
  Tensor output(size_t index, std::vector<int64_t> dims) const;
  size_t num_inputs() const;

  // task(i) for 0 <= i < total on ORT's threads. Tasks must not throw.
  template <class Task>
  void parallel(int64_t total, const Task& task) const {
    if (total == 1) return task(0);
    run_parallel(total, const_cast<Task*>(&task), [](void* t, size_t i) {
      (*static_cast<const Task*>(t))(static_cast<int64_t>(i));
    });
  }

 private:
  void run_parallel(int64_t total, void* task, void (*call)(void*, size_t)) const;
  ort::OrtKernelContext* context_;
};

// Shape inference. A dimension is a number, or a name (possibly "") where it is not known.
struct Dim {
  int64_t size = -1;
  std::string name;
};
class ShapeContext {
 public:
  explicit ShapeContext(ort::OrtShapeInferContext* context) : context_(context) {}
  // False where the rank is not known.
  bool input(size_t index, std::vector<Dim>* dims, ort::TensorType* type) const;
  bool integer(const char* name, int64_t* out) const;
  bool integers(const char* name, std::vector<int64_t>* out) const;
  bool text(const char* name, std::string* out) const;
  void set_output(size_t index, ort::TensorType type, const std::vector<Dim>& dims) const;

 private:
  const ort::OrtOpAttr* attribute(const char* name) const;
  ort::OrtShapeInferContext* context_;
};

class OpKernel {
 public:
  virtual ~OpKernel() = default;
  virtual void compute(const Context& context) const = 0;
};

struct Port {
  ort::TensorType type;
  ort::Characteristic characteristic = ort::kRequired;
};

struct OpDefinition : ort::OrtCustomOp {
  using Create = std::unique_ptr<OpKernel> (*)(const Node&);
  using Infer = void (*)(const ShapeContext&);
  OpDefinition(const char* name, std::vector<Port> inputs, std::vector<Port> outputs, Create create,
               Infer infer);
  const char* op_name;
  std::vector<Port> inputs, outputs;
  Create create;
  Infer infer;
};

// Memory kept between calls, 64-byte aligned; grows, never shrinks. Contents are
// undefined. Several may be in use at once: each use names its own (a thread_local).
class Scratch {
 public:
  ~Scratch();
  template <class T>
  T* get(int64_t count) {
    return static_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // What the last get() returned; null before.
  const uint8_t* data() const { return static_cast<const uint8_t*>(memory_); }

 private:
  void* bytes(int64_t size);
  void* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace qcompile
