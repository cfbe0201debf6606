// What arrives at a stream: checked rows, and a policy for modalities that are late, early, repeated or missing
// (docs/streaming.md, as in Python). The hot path: no allocation after the first push of a size.
#ifndef DMDKIT_SRC_ARRIVALS_HPP_
#define DMDKIT_SRC_ARRIVALS_HPP_

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/stream.hpp"
#include "inputs.hpp"
#include "step_state.hpp"

namespace dmdkit {

// When steps came, in seconds, and each modality's last own row.
struct StepClock {
  std::optional<double> now;  // of the newest step; none before the first with a time
  std::array<std::optional<double>, kModalities> last;
  std::array<bool, kModalities> holds{};
  std::array<std::vector<float>, kModalities> held;
};

// Rows ready for the state: the caller's own, or with what stands for missing ones.
struct Arrival {
  StepRows rows{};
  std::size_t count = 0;  // more than were pushed where missing steps were filled
  std::array<Filling, kModalities> filled{};
};

class Arrivals {
 public:
  // Throws Failure for options that cannot be.
  Arrivals(const InputRecords& inputs, const StreamOptions& options);

  // The rows of one push; they are valid until the next. Fails for a wrong size or value, a time out of order, or something
  // missing that the policy refuses.
  Status take(const Steps& steps, Arrival& arrival);

  // The clock after the steps last taken; it follows the times that were right, so that a slow drift is no error.
  void accept() noexcept;

  void clear() noexcept;
  const StepClock& clock() const noexcept { return clock_; }
  StepClock& clock() noexcept { return clock_; }

 private:
  // Why a modality is not of this step.
  enum class Wrong { kNothing, kMissing, kRepeated, kLate, kEarly };

  Status check_rows(const Steps& steps) const;
  Status check_times(const Steps& steps) const;
  Status place(const Steps& steps);
  Status fill(std::size_t modality, const std::string& why, Filling& filling) const;
  std::string why(std::size_t modality, const Steps& steps) const;
  void stage(std::size_t modality, const Steps& steps, Arrival& arrival);
  void move_clock(const Steps& steps, const Arrival& arrival);

  InputRecords inputs_;
  std::array<Filling, kModalities> policy_{};
  std::optional<double> step_s_;
  double tolerance_s_ = 0.0;
  StepClock clock_;
  StepClock next_;
  std::array<Wrong, kModalities> wrong_{};
  std::size_t gap_ = 0;      // whole steps missing before this one
  double expected_s_ = 0.0;  // when this step should come
  std::array<std::vector<float>, kModalities> staged_;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_ARRIVALS_HPP_
