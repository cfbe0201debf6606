#include "heard_ranges.hpp"

#include <algorithm>

namespace dmdkit {

HeardRanges::HeardRanges(const InputRecords& records, std::size_t limit) : guard_(records), totals_(limit + 1) {
  for (std::size_t i = 0; i < kModalities; ++i) widths_[i] = records[i].info.features;
}

void HeardRanges::hear(const std::array<const float*, kModalities>& rows, std::size_t count) noexcept {
  for (std::size_t step = 0; step < count; ++step) {
    const Totals& before = totals_[heard_ % totals_.size()];
    Totals& after = totals_[++heard_ % totals_.size()];
    for (std::size_t i = 0; i < kModalities; ++i) {
      const RangeGuard::Counts found = guard_.count_step(i, rows[i] + step * widths_[i]);
      after[i] = {before[i].outside + found.outside, before[i].present + found.present};
    }
  }
}

std::array<double, kModalities> HeardRanges::shares(std::size_t steps) const noexcept {
  const std::size_t rests_on = std::min({steps, heard_, totals_.size() - 1});
  const Totals& newest = totals_[heard_ % totals_.size()];
  const Totals& before = totals_[(heard_ - rests_on) % totals_.size()];
  std::array<double, kModalities> found{};
  for (std::size_t i = 0; i < kModalities; ++i) {
    found[i] = guard_.share(i, {newest[i].outside - before[i].outside, newest[i].present - before[i].present});
  }
  return found;
}

void HeardRanges::clear() noexcept {
  heard_ = 0;
  totals_.front() = {};
}

}  // namespace dmdkit
