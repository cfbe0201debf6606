#include "self_check.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace dmdkit {
namespace {

using Outputs = std::map<std::string, Tensor>;

GraphCheck check(const char* precision, const char* output, std::vector<float> found, std::vector<float> recorded) {
  const std::size_t n = recorded.size();
  return check_outputs("g", precision, {{output, {{found.size()}, found}}}, {{output, {{n}, recorded}}}, 2.0);
}

TEST(SelfCheckTest, Fp32ToleranceGrowsWithTheValue) {
  EXPECT_TRUE(check("fp32", "score", {1000.005F}, {1000.0F}).passed);
  EXPECT_FALSE(check("fp32", "score", {0.1F}, {0.10002F}).passed);
}

TEST(SelfCheckTest, Int8ToleranceIsInStandardDeviations) {
  EXPECT_TRUE(check("int8-cpu", "score", {0.19F}, {0.0F}).passed);
  EXPECT_FALSE(check("int8-cpu", "score", {0.21F}, {0.0F}).passed);
  EXPECT_FALSE(check("int8-cpu", "edges_homo", {0.19F}, {0.0F}).passed);  // a probability: 0.1, whatever the scores' scale
}

TEST(SelfCheckTest, AGraphThatOnlyStoresInt8IsHeldToTheToleranceOfFp32) {
  const Outputs then = {{"score", {{1}, {0.1F}}}};
  const Outputs near = {{"score", {{1}, {0.100005F}}}};
  const Outputs far = {{"score", {{1}, {0.10002F}}}};
  EXPECT_TRUE(check_outputs("g", "int8-cpu", near, then, 2.0, true).passed);
  EXPECT_FALSE(check_outputs("g", "int8-cpu", far, then, 2.0, true).passed);
}

TEST(SelfCheckTest, Int8ScoresMustAlsoCorrelate) {
  EXPECT_FALSE(check("int8-cpu", "score", {0.0F, 0.1F, 0.0F, 0.1F}, {0.1F, 0.0F, 0.1F, 0.0F}).passed);
}

TEST(SelfCheckTest, NothingRecordedWrongShapeOrNanNeverPass) {
  EXPECT_FALSE(check_outputs("g", "fp32", {}, {}, 1.0).passed);
  EXPECT_FALSE(check_outputs("g", "fp32", {}, Outputs{{"score", {{1}, {0.0F}}}}, 1.0).passed);
  EXPECT_FALSE(check("fp32", "score", {0.0F, 0.0F}, {0.0F}).passed);
  EXPECT_FALSE(check("fp32", "score", {std::nanf("")}, {0.0F}).passed);
  EXPECT_FALSE(check("fp32", "score", {0.0F}, {std::nanf("")}).passed);
}

TEST(SelfCheckTest, CorrelationOfConstantsIsNone) {
  const std::vector<float> constant = {1, 1, 1};
  const std::vector<float> rising = {1, 2, 3};
  EXPECT_FALSE(correlation(constant, rising).has_value());
  EXPECT_NEAR(*correlation(rising, rising), 1.0, 1e-12);
}

}  // namespace
}  // namespace dmdkit
