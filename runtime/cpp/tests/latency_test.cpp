#include "latency.hpp"

#include <gtest/gtest.h>

namespace dmdkit {
namespace {

TEST(LatencyTest, QuantilesAreExactToTwoPerCentAtEveryScale) {
  for (const std::uint64_t unit : {1ULL, 1000ULL, 1000000ULL, 1000000000ULL}) {
    LatencyHistogram histogram;
    for (std::uint64_t i = 1; i <= 1000; ++i) histogram.add(i * unit);
    for (const double share : {0.5, 0.9, 0.99}) {
      const double expected = share * 1000 * static_cast<double>(unit);
      EXPECT_NEAR(static_cast<double>(histogram.quantile(share)), expected, 0.02 * expected);
    }
    EXPECT_EQ(histogram.max(), 1000 * unit);
  }
}

TEST(LatencyTest, TakesNothingAndTheLargestNumber) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0U);
  histogram.add(UINT64_MAX);
  histogram.add(0);
  EXPECT_EQ(histogram.max(), UINT64_MAX);
  EXPECT_EQ(histogram.count(), 2U);
}

}  // namespace
}  // namespace dmdkit
