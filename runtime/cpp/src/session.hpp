// One opened graph with the buffers bound to it. Opening and binding may throw Failure; running does not.
#ifndef DMDKIT_SRC_SESSION_HPP_
#define DMDKIT_SRC_SESSION_HPP_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "dmdkit/backend.h"
#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"
#include "failure.hpp"

namespace dmdkit {

// One input or output of a graph; sizes without the axis that counts, of samples or of new steps.
struct Port {
  std::string name;
  std::vector<std::size_t> sizes;
  bool counted = true;      // false: one tensor whatever the batch, such as a stream's state
  std::size_t axis = 0;     // the one that counts, where there is one; anything but the first only in step graphs
  std::size_t values = 0;   // of one sample or step, or of the whole tensor
  float* buffer = nullptr;  // (batch *) values, 64-byte aligned; one that is not counted never moves
};

class Session {
 public:
  // Opens graph `name` of `bundle` after checking its hash; with a backend that takes engines, an engine of that graph. Throws
  // Failure.
  Session(const Bundle& bundle, const std::string& name, const Options& options);
  // The same opened model with buffers of its own; the two may run at once. Null where the backend cannot. Throws Failure.
  std::unique_ptr<Session> share() const;
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::string& name() const noexcept { return name_; }
  // "onnxruntime 1.31.1", and in brackets how it runs where the backend says so.
  std::string backend() const;
  bool runs_engine() const noexcept { return table_.takes_engines != 0; }
  const std::vector<Port>& inputs() const noexcept { return inputs_; }
  const std::vector<Port>& outputs() const noexcept { return outputs_; }

  // Null if there is none of this name.
  const Port* find_input(const std::string& port) const noexcept;
  const Port* find_output(const std::string& port) const noexcept;

  // Makes room for a batch: does nothing when it is the current one, otherwise binds again, in new memory if it is larger than
  // any before. Throws Failure.
  void bind(std::size_t batch);
  std::size_t batch() const noexcept { return batch_; }

  // Runs the graph from the input buffers to the output buffers.
  Status run() noexcept;

 private:
  using Memory = std::unique_ptr<float, void (*)(float*)>;

  Session(const dmdkit_backend_vtable& table, std::string name, dmdkit_backend_session* session);
  void place(bool counted, std::size_t batch, Memory& memory);
  void open_engine(const Bundle& bundle, dmdkit_backend_open_args& args);
  void describe();
  void describe(bool outputs, std::vector<Port>& ports);

  const dmdkit_backend_vtable& table_;
  std::string name_;
  dmdkit_backend_session* session_ = nullptr;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  Memory memory_;
  Memory fixed_memory_;
  std::size_t capacity_ = 0;  // largest batch that memory_ holds
  std::size_t batch_ = 0;
};

// Opens graph `name` of `bundle` in a backend that takes ONNX files, after checking its hash; who calls closes it. Throws
// Failure.
dmdkit_backend_session* open_model_of(const dmdkit_backend_vtable& table, const Bundle& bundle, const std::string& name,
                                      const Options& options, bool tokens);

// The same with a step graph and the fusion graph whose weights it shares, in a backend that keeps the state of streams.
dmdkit_backend_session* open_steps_of(const dmdkit_backend_vtable& table, const Bundle& bundle, const std::string& name,
                                      const std::string& fusion, const Options& options);

// What a code and a text of a backend mean.
Failure backend_failure(int code, const char* error);

// Whether a graph's parity was proven on the native kernels, which `options` name; a verdict on INT8 belongs to the bits that
// an activation has here. Throws Failure where they cannot be loaded.
bool passed_on_native(const GraphRecord& record, const Options& options);

// Whether `backend` runs engines rather than ONNX files. Throws Failure where it cannot be loaded.
bool takes_engines(const Options& options);

// Opens the best graph of `kind` (fusion, explain) that can be had: the one asked for by full name or precision, or with an
// empty `wanted` the preferred one that passed parity. Throws Failure.
std::unique_ptr<Session> open_session(const Bundle& bundle, const std::string& kind, const std::string& wanted,
                                      const Options& options);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_SESSION_HPP_
