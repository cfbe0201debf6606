// An opened step graph that streams share.
#ifndef DMDKIT_SRC_STEP_MODEL_HPP_
#define DMDKIT_SRC_STEP_MODEL_HPP_

#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "dmdkit/types.hpp"
#include "kernel_steps.hpp"
#include "session.hpp"
#include "step_state.hpp"

namespace dmdkit {

class StepModel {
 public:
  // Opens the step graph that goes with a predicting graph of this precision: where that was asked for by name, the same or
  // else fp32, whatever its verdict; otherwise the first of them that passed parity. With our own kernels for a backend, on
  // those where they can (by name) or were proven to (otherwise), else in ONNX Runtime. Throws Failure.
  StepModel(const Bundle& bundle, const std::string& predicting, bool asked_for, const Options& options);

  const std::string& graph() const noexcept { return name_; }
  // "onnxruntime 1.31.1"
  std::string backend() const { return kernels_ ? kernels_->backend() : first_->backend(); }
  // Of the graph's file: which bundle and precision a state is of.
  const std::string& sha256() const noexcept { return sha256_; }
  // What a stream's answers mean where that needs saying, in a sentence; empty where not.
  const std::string& note() const noexcept { return note_; }
  const Manifest& manifest() const noexcept { return bundle_.manifest(); }
  const OutOfRangeCallback& on_out_of_range() const noexcept { return options_.on_out_of_range; }

  // A new state; from any thread. Throws Failure.
  std::unique_ptr<StepState> state();

 private:
  void open_kernels(const std::string& predicting, bool asked_for);

  Bundle bundle_;
  Options options_;
  std::string name_;
  std::string sha256_;
  std::string note_;
  std::mutex mutex_;
  // One of them, never run: holds the weights.
  std::unique_ptr<Session> first_;
  std::unique_ptr<StepKernels> kernels_;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STEP_MODEL_HPP_
