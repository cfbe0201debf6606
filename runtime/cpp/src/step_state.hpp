// One state of a stream: keys, values and the last input steps, in the buffers of a step graph's session (docs/streaming.md).
#ifndef DMDKIT_SRC_STEP_STATE_HPP_
#define DMDKIT_SRC_STEP_STATE_HPP_

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"
#include "manifest.hpp"
#include "session.hpp"

namespace dmdkit {

// New rows of each modality, steps first.
using StepRows = std::array<const float*, kModalities>;

// What the newest `count` of the steps last run answer; views of the session's buffers.
struct StepOutputs {
  std::size_t count = 0;
  FloatView score;         // (count, C)
  FloatView logit_hetero;  // (count, 3, C)
  FloatView edges_hetero;  // (count, 6), empty without GD-Units
};

class StepState {
 public:
  // Throws Failure where the graph is not what the manifest says.
  StepState(std::unique_ptr<Session> session, const Manifest& manifest);

  std::size_t steps() const noexcept { return steps_; }  // input steps heard
  std::size_t capacity() const noexcept { return record_.capacity; }
  std::size_t projected() const noexcept { return steps_ < kept_ ? 0 : steps_ - kept_; }
  std::size_t room() const noexcept { return record_.capacity + kept_ - steps_; }  // input steps that still fit

  // Forgets everything; what the tensors hold does not count and stays finite.
  void clear() noexcept { steps_ = 0; }

  // Makes room for runs of `count` steps. Throws Failure.
  void reserve(std::size_t count) { session_->bind(count); }

  // Computes what `count` new steps, at most room(), answer. The state is as it was until commit. Allocates only for more steps
  // at once than ever before.
  Status run(const StepRows& rows, std::size_t count, StepOutputs& outputs);

  // Takes the steps last run into the state.
  void commit() noexcept;

  // For snapshots: a tensor (channels, capacity), of which the first projected() columns count, and the last input steps of a
  // modality, min(steps(), kernel - 1) rows that count.
  float* tensor(std::size_t index) noexcept { return tensors_[index].past->buffer; }
  float* recent(std::size_t modality) noexcept { return recent_[modality] != nullptr ? recent_[modality]->buffer : nullptr; }
  void set_steps(std::size_t steps) noexcept { steps_ = steps; }

 private:
  struct Tensor {
    const Port* past = nullptr;
    const Port* fresh = nullptr;
    std::size_t channels = 0;
  };

  const Port* input(const std::string& name, const std::vector<std::size_t>& sizes, bool counted) const;
  const Port* output(const std::string& name, const std::vector<std::size_t>& sizes, std::size_t axis) const;
  void check_place(const std::string& name, const Port* port, bool good) const;

  std::unique_ptr<Session> session_;
  StreamRecord record_;
  std::size_t kept_ = 0;  // kernel - 1
  std::size_t steps_ = 0;
  std::size_t run_steps_ = 0;  // of the last run, and how many of them went to the graph
  std::size_t run_count_ = 0;
  std::array<std::size_t, kModalities> widths_{};
  std::array<const Port*, kModalities> new_{};
  std::array<const Port*, kModalities> recent_{};
  const Port* place_ = nullptr;
  std::vector<Tensor> tensors_;
  const Port* score_ = nullptr;
  const Port* logit_hetero_ = nullptr;
  const Port* edges_hetero_ = nullptr;  // null without GD-Units
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STEP_STATE_HPP_
