// The states of a stream: the one that answers, and where answers go on past the longest trained length the one that follows
// it, fed with the newest steps before its turn comes (docs/streaming.md, as in Python).
#ifndef DMDKIT_SRC_STREAM_STATES_HPP_
#define DMDKIT_SRC_STREAM_STATES_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "inputs.hpp"
#include "step_state.hpp"

namespace dmdkit {

class StreamStates {
 public:
  // `next` is null where a stream stops at its limit.
  StreamStates(std::unique_ptr<StepState> state, std::unique_ptr<StepState> next, const InputRecords& inputs);

  // Steps that one answer can rest on, those that the newest answer rests on, and those heard since the start.
  std::size_t limit() const noexcept { return limit_; }
  std::size_t steps() const noexcept { return state_->steps(); }
  std::uint64_t heard() const noexcept { return heard_; }
  bool goes_on() const noexcept { return next_ != nullptr; }
  std::size_t room() const noexcept { return state_->room(); }

  // Takes some of `count` steps, as many as the state holds, and says how many and what they answer. Where it fails, the stream
  // is as it was. A stream that stops must have room for one.
  Status advance(const StepRows& rows, std::size_t count, std::size_t& taken, StepOutputs& outputs);

  void clear() noexcept;

  // What a snapshot holds. The second state and the waiting rows, which it was not fed yet, are there only where goes_on().
  std::uint64_t start() const noexcept { return heard_ - state_->steps(); }
  std::uint64_t next_start() const noexcept { return start() + begin_; }
  bool is_primed() const noexcept { return next_ && (next_->steps() > 0 || waiting_ > 0); }
  StepState& state() noexcept { return *state_; }
  StepState& next() noexcept { return *next_; }
  std::size_t begin() const noexcept { return begin_; }      // steps of a state before the first of the one after it
  std::size_t overlap() const noexcept { return overlap_; }  // steps of a state that the one after it holds at its turn
  std::size_t waiting() const noexcept { return waiting_; }
  float* waiting_rows(std::size_t modality) noexcept { return rows_[modality].data(); }
  void set(std::uint64_t heard, std::size_t waiting) noexcept;

 private:
  Status hand_over();
  Status feed_next(std::size_t count);
  void drop_waiting(std::size_t count) noexcept;

  std::unique_ptr<StepState> state_;
  std::unique_ptr<StepState> next_;
  std::array<std::size_t, kModalities> widths_{};
  std::size_t limit_ = 0;
  std::size_t overlap_ = 0;
  std::size_t begin_ = 0;
  std::uint64_t heard_ = 0;
  std::size_t waiting_ = 0;
  std::array<std::vector<float>, kModalities> rows_;  // room for `overlap_` of them
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STREAM_STATES_HPP_
