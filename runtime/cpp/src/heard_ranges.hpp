// How far the steps that a stream's answers rest on leave the training range: what predict says of the same window.
#ifndef DMDKIT_SRC_HEARD_RANGES_HPP_
#define DMDKIT_SRC_HEARD_RANGES_HPP_

#include <array>
#include <cstddef>
#include <vector>

#include "inputs.hpp"

namespace dmdkit {

// Totals by step, of the newest steps of a stream. Allocates when it is made and never after.
class HeardRanges {
 public:
  // `limit`: steps that one answer can rest on.
  HeardRanges(const InputRecords& records, std::size_t limit);

  // Counts `count` pushed rows of every modality.
  void hear(const std::array<const float*, kModalities>& rows, std::size_t count) noexcept;

  // Per modality the share of values outside over the newest `steps` steps, 0 where it is not worth a report. After a restore
  // these are the steps pushed since then: a snapshot keeps no raw steps.
  std::array<double, kModalities> shares(std::size_t steps) const noexcept;

  void clear() noexcept;

 private:
  using Totals = std::array<RangeGuard::Counts, kModalities>;
  RangeGuard guard_;
  std::array<std::size_t, kModalities> widths_{};
  std::vector<Totals> totals_;  // a ring: after step n at n % size
  std::size_t heard_ = 0;
};

}  // namespace dmdkit

#endif  // DMDKIT_SRC_HEARD_RANGES_HPP_
