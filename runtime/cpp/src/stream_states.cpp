#include "stream_states.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dmdkit {
namespace {

// Steps that a second state is fed in one push, as in Python: few enough that no push costs more than 3 times the median.
constexpr std::size_t kPrimedAtOnce = 4;

}  // namespace

StreamStates::StreamStates(std::unique_ptr<StepState> state, std::unique_ptr<StepState> next, const InputRecords& inputs)
    : state_(std::move(state)), next_(std::move(next)), limit_(state_->room()) {
  overlap_ = std::min(std::max(limit_ / 2, limit_ - state_->capacity() + 1), limit_ - 1);
  begin_ = limit_ - overlap_;
  for (std::size_t i = 0; i < kModalities; ++i) {
    widths_[i] = inputs[i].info.features;
    if (next_) rows_[i].resize(overlap_ * widths_[i]);
  }
  if (!next_) return;
  // They take turns, so that either may be fed several steps at once.
  state_->reserve(kPrimedAtOnce);
  next_->reserve(kPrimedAtOnce);
}

Status StreamStates::advance(const StepRows& rows, std::size_t count, std::size_t& taken, StepOutputs& outputs) {
  if (state_->room() == 0) {
    Status status = hand_over();
    if (!status.ok()) return status;
  }
  taken = std::min(count, state_->room());
  Status status = state_->run(rows, taken, outputs);
  if (!status.ok()) return status;
  if (next_) {
    // What the next state will rest on, and as much of it as must not wait.
    const std::size_t before = state_->steps();
    const std::size_t first = begin_ > before ? begin_ - before : 0;
    const std::size_t kept = first < taken ? std::min(taken - first, overlap_ - waiting_) : 0;
    for (std::size_t i = 0; i < kModalities && kept > 0; ++i) {
      std::memcpy(rows_[i].data() + waiting_ * widths_[i], rows[i] + first * widths_[i], kept * widths_[i] * sizeof(float));
    }
    const std::size_t may_wait = kPrimedAtOnce * (state_->room() - taken) + next_->steps();
    const std::size_t due = std::min(overlap_ > may_wait ? overlap_ - may_wait : 0, waiting_ + kept);
    if (due > 0) status = feed_next(due);
    if (!status.ok()) return status;
    waiting_ += kept;
    drop_waiting(due);
  }
  state_->commit();
  heard_ += taken;
  return {};
}

// The next state, which holds the newest steps by now, takes the place of the full one.
Status StreamStates::hand_over() {
  if (waiting_ > 0) {  // of a snapshot that did not prime
    Status status = feed_next(waiting_);
    if (!status.ok()) return status;
    drop_waiting(waiting_);
  }
  std::swap(state_, next_);
  next_->clear();
  // A kernel above half the window: the state after this one begins among steps already heard, its last recent ones.
  waiting_ = state_->steps() > begin_ ? state_->steps() - begin_ : 0;
  for (std::size_t i = 0; i < kModalities && waiting_ > 0; ++i) {
    const float* last = state_->recent(i) + (limit_ - state_->capacity() - waiting_) * widths_[i];
    std::memcpy(rows_[i].data(), last, waiting_ * widths_[i] * sizeof(float));
  }
  return {};
}

Status StreamStates::feed_next(std::size_t count) {
  StepRows rows{};
  for (std::size_t i = 0; i < kModalities; ++i) rows[i] = rows_[i].data();
  StepOutputs unused;
  Status status = next_->run(rows, count, unused);
  if (status.ok()) next_->commit();
  return status;
}

void StreamStates::drop_waiting(std::size_t count) noexcept {
  waiting_ -= count;
  for (std::size_t i = 0; i < kModalities && count > 0; ++i) {
    std::memmove(rows_[i].data(), rows_[i].data() + count * widths_[i], waiting_ * widths_[i] * sizeof(float));
  }
}

void StreamStates::clear() noexcept {
  state_->clear();
  if (next_) next_->clear();
  heard_ = 0;
  waiting_ = 0;
}

void StreamStates::set(std::uint64_t heard, std::size_t waiting) noexcept {
  heard_ = heard;
  waiting_ = waiting;
}

}  // namespace dmdkit
