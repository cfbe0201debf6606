// What a Stream holds.
#ifndef DMDKIT_SRC_STREAM_IMPL_HPP_
#define DMDKIT_SRC_STREAM_IMPL_HPP_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arrivals.hpp"
#include "dmdkit/stream.hpp"
#include "heard_ranges.hpp"
#include "snapshot.hpp"
#include "step_model.hpp"
#include "stream_states.hpp"

namespace dmdkit {

class Stream::Impl {
 public:
  // Throws Failure.
  Impl(std::shared_ptr<StepModel> model, const StreamOptions& options);

  Result<StepAnswer> push(const Steps& steps, const StepBuffers* targets);
  Status reset();
  std::uint64_t heard() const;
  std::vector<std::uint8_t> snapshot();
  Status restore(View<const std::uint8_t> bytes);

  const StepModel& model() const noexcept { return *model_; }
  std::size_t limit() const noexcept { return states_.limit(); }

 private:
  static StreamStates make_states(StepModel& model, const StreamOptions& options);
  Result<StepAnswer> push_locked(const Steps& steps, const StepBuffers* targets);
  void report(const StepAnswer& answer) const noexcept;
  void reserve(std::size_t count);
  Status check_limit(std::size_t count) const;
  Status advance(const Arrival& arrival, StepAnswer& answer);
  Status check_buffers(std::size_t count, const StepBuffers& targets) const;
  static void copy(const StepBuffers& targets, StepAnswer& answer);
  void set_state(const Snapshot::State& from, StepState& state) const;

  std::shared_ptr<StepModel> model_;
  Arrivals arrivals_;
  StreamStates states_;
  HeardRanges ranges_;
  SnapshotSizes sizes_;
  mutable std::mutex mutex_;
  std::size_t outputs_ = 0;
  std::vector<float> score_, logit_hetero_, edges_hetero_;  // what the largest push so far answered
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STREAM_IMPL_HPP_
