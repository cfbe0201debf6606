// Latencies in fixed memory: a histogram with 64 steps per power of two, so quantiles are exact to 1.6 %; the maximum is exact.
#ifndef DMDKIT_SRC_LATENCY_HPP_
#define DMDKIT_SRC_LATENCY_HPP_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dmdkit {

class LatencyHistogram {
 public:
  void add(std::uint64_t nanoseconds) noexcept {
    ++counts_[index_of(nanoseconds)];
    ++count_;
    max_ = std::max(max_, nanoseconds);
  }

  std::uint64_t count() const noexcept { return count_; }
  std::uint64_t max() const noexcept { return max_; }

  // The smallest recorded latency that at least `share` of all do not exceed, in nanoseconds, rounded up to its step.
  std::uint64_t quantile(double share) const noexcept {
    if (count_ == 0) return 0;
    const auto wanted = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_))));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted) return std::min(max_, upper_end(i));
    }
    return max_;
  }

 private:
  static constexpr unsigned kStepBits = 6;
  static constexpr unsigned kPowers = 42;  // up to 2^48 ns, three days

  static unsigned log2_of(std::uint64_t value) noexcept {
    unsigned bits = 0;
    while (value >>= 1U) ++bits;
    return bits;
  }

  // Values below 64 have a step of their own; above, the leading bit chooses the power and the next six the step.
  static std::size_t index_of(std::uint64_t value) noexcept {
    if (value < (1U << kStepBits)) return value;
    const unsigned power = log2_of(value) - kStepBits;
    const std::size_t index = ((power + 1U) << kStepBits) + ((value >> power) & ((1U << kStepBits) - 1U));
    return std::min(index, ((kPowers + 1U) << kStepBits) - std::size_t{1});
  }

  static std::uint64_t upper_end(std::size_t index) noexcept {
    if (index < (1U << kStepBits)) return index;
    const std::size_t power = (index >> kStepBits) - 1U;
    const std::uint64_t step = index & ((1U << kStepBits) - 1U);
    return (((std::uint64_t{1} << kStepBits) + step + 1U) << power) - 1U;
  }

  std::array<std::uint64_t, (kPowers + 1U) << kStepBits> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_LATENCY_HPP_
