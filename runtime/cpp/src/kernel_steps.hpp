// A stream's state in a backend that keeps it itself, in its own layout: a step is one call.
#ifndef DMDKIT_SRC_KERNEL_STEPS_HPP_
#define DMDKIT_SRC_KERNEL_STEPS_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "dmdkit/backend.h"
#include "step_state.hpp"

namespace dmdkit {

// A session of such a backend.
class StepKernels {
 public:
  // Opens step graph `name` with the fusion graph of its precision. Throws Failure where the backend cannot, or gives something
  // else than the manifest says.
  static std::unique_ptr<StepKernels> open(const Bundle& bundle, const std::string& name, const Options& options);
  ~StepKernels();
  StepKernels(const StepKernels&) = delete;
  StepKernels& operator=(const StepKernels&) = delete;

  // Another one over the same weights. Throws Failure.
  std::unique_ptr<StepKernels> share() const;

  const std::string& name() const noexcept { return name_; }
  const char* backend() const noexcept { return table_.describe(); }
  bool has_edges() const noexcept { return table_.output_count(session_) > 2; }

  Status step(std::size_t place, std::size_t count, const float* const* rows, float* const* outputs) noexcept;
  // Throw Failure.
  void read(std::size_t tensor, std::size_t steps, float* values) const;
  void write(std::size_t tensor, std::size_t steps, const float* values);

 private:
  StepKernels(const dmdkit_backend_vtable& table, std::string name, dmdkit_backend_session* session)
      : table_(table), name_(std::move(name)), session_(session) {}
  void check(const Manifest& manifest) const;

  const dmdkit_backend_vtable& table_;
  std::string name_;
  dmdkit_backend_session* session_;
};

class KernelStepState : public StepState {
 public:
  KernelStepState(std::unique_ptr<StepKernels> kernels, const Manifest& manifest);

  void reserve(std::size_t count) override;
  Status run(const StepRows& rows, std::size_t count, StepOutputs& outputs) override;
  void commit() noexcept override;
  float* recent(std::size_t modality) noexcept override { return rows_[modality].data(); }
  void write_tensors(SnapshotWriter& to) override;
  void read_tensors(const std::vector<View<const std::uint8_t>>& from) override;

 private:
  std::unique_ptr<StepKernels> kernels_;
  std::size_t outputs_ = 0;
  bool edges_ = false;
  std::size_t room_ = 0;                              // steps that one run has room for
  std::size_t run_steps_ = 0;                         // of the last run
  std::array<std::vector<float>, kModalities> rows_;  // the last min(steps, kept) input steps, then new ones
  std::vector<float> score_, logit_hetero_, edges_hetero_;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_KERNEL_STEPS_HPP_
