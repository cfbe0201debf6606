// One state of a stream: what it knows of the steps before the next one (docs/streaming.md). Graphs of an inference library
// leave keys and values to us (graph_steps.hpp), our own kernels keep them themselves (kernel_steps.hpp).
#ifndef DMDKIT_SRC_STEP_STATE_HPP_
#define DMDKIT_SRC_STEP_STATE_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"
#include "manifest.hpp"

namespace dmdkit {

class SnapshotWriter;

// New rows of each modality, steps first.
using StepRows = std::array<const float*, kModalities>;

// What the newest `count` of the steps last run answer; views of the state's buffers.
struct StepOutputs {
  std::size_t count = 0;
  FloatView score;         // (count, C)
  FloatView logit_hetero;  // (count, 3, C)
  FloatView edges_hetero;  // (count, 6), empty without GD-Units
};

class StepState {
 public:
  explicit StepState(const Manifest& manifest);
  virtual ~StepState() = default;
  StepState(const StepState&) = delete;
  StepState& operator=(const StepState&) = delete;

  std::size_t steps() const noexcept { return steps_; }  // input steps heard
  std::size_t capacity() const noexcept { return record_.capacity; }
  std::size_t projected() const noexcept { return steps_ < kept_ ? 0 : steps_ - kept_; }
  std::size_t room() const noexcept { return record_.capacity + kept_ - steps_; }  // input steps that still fit

  // Forgets everything; what the tensors hold does not count and stays finite.
  void clear() noexcept { steps_ = 0; }
  void set_steps(std::size_t steps) noexcept { steps_ = steps; }

  // Makes room for runs of `count` steps. Throws Failure.
  virtual void reserve(std::size_t count) = 0;

  // Computes what `count` new steps, at most room(), answer. The state is as it was until commit. Allocates only for more steps
  // at once than ever before.
  virtual Status run(const StepRows& rows, std::size_t count, StepOutputs& outputs) = 0;

  // Takes the steps last run into the state.
  virtual void commit() noexcept = 0;

  // For snapshots: the last input steps of a modality, min(steps(), kernel - 1) rows that count; and the tensors' columns that
  // count, which are as many as there are projected steps. Both throw Failure.
  virtual float* recent(std::size_t modality) noexcept = 0;
  virtual void write_tensors(SnapshotWriter& to) = 0;
  virtual void read_tensors(const std::vector<View<const std::uint8_t>>& from) = 0;

 protected:
  Status not_finite(const std::string& graph) const;

  StreamRecord record_;
  std::size_t kept_ = 0;  // kernel - 1
  std::size_t steps_ = 0;
  std::array<std::size_t, kModalities> widths_{};
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STEP_STATE_HPP_
