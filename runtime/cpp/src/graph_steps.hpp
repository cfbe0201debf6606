// A stream's state over a step graph: keys, values and the last input steps lie in the buffers of its session.
#ifndef DMDKIT_SRC_GRAPH_STEPS_HPP_
#define DMDKIT_SRC_GRAPH_STEPS_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "session.hpp"
#include "step_state.hpp"

namespace dmdkit {

class GraphStepState : public StepState {
 public:
  // Throws Failure where the graph is not what the manifest says.
  GraphStepState(std::unique_ptr<Session> session, const Manifest& manifest);

  void reserve(std::size_t count) override { session_->bind(count); }
  Status run(const StepRows& rows, std::size_t count, StepOutputs& outputs) override;
  void commit() noexcept override;
  float* recent(std::size_t modality) noexcept override {
    return recent_[modality] != nullptr ? recent_[modality]->buffer : nullptr;
  }
  void write_tensors(SnapshotWriter& to) override;
  void read_tensors(const std::vector<View<const std::uint8_t>>& from) override;

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
  std::size_t run_steps_ = 0;  // of the last run, and how many of them went to the graph
  std::size_t run_count_ = 0;
  std::array<const Port*, kModalities> new_{};
  std::array<const Port*, kModalities> recent_{};
  const Port* place_ = nullptr;
  std::vector<Tensor> tensors_;
  const Port* score_ = nullptr;
  const Port* logit_hetero_ = nullptr;
  const Port* edges_hetero_ = nullptr;  // null without GD-Units
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_GRAPH_STEPS_HPP_
