#include <cmath>
#include <limits>

#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

class InputsTest : public BundleTest {
 protected:
  std::string refusal(const Inputs& given) {
    auto runtime = Runtime::open(folder, options());
    EXPECT_TRUE(runtime.ok());
    const auto prediction = runtime->predict(given);
    EXPECT_EQ(prediction.code(), StatusCode::kInvalidInput);
    return prediction.status().message();
  }
};

TEST_F(InputsTest, SaysWhichSizeWasExpected) {
  Inputs given = inputs();
  given.text = FloatView(text.data(), 11);
  EXPECT_EQ(refusal(given), "input 'text' has 11 values, expected (batch, 3, 4) = 12 for a batch of 1");
}

TEST_F(InputsTest, SaysWhereANanIs) {
  Inputs given = inputs(2);
  text[12 + 4 + 2] = std::nanf("");
  EXPECT_EQ(
      refusal(given),
      "input 'text' holds nan at sample 1, step 1, feature 2; replace it before predicting (training replaced by 0 only if "
      "its recipe said so)");
  text[12 + 4 + 2] = -std::numeric_limits<float>::infinity();
  EXPECT_NE(refusal(given).find("holds -inf"), std::string::npos);
}

TEST_F(InputsTest, RefusesNullPointersEmptyViewsAndBatches) {
  Inputs given = inputs();
  given.audio = FloatView(nullptr, 6);
  EXPECT_NE(refusal(given), "");
  given.audio = FloatView();
  EXPECT_NE(refusal(given), "");
  given = inputs();
  for (const std::size_t batch : {std::size_t{0}, std::size_t{2}, std::numeric_limits<std::size_t>::max()}) {
    given.batch = batch;
    EXPECT_NE(refusal(given), "");
  }
}

TEST_F(InputsTest, AbsenceIsAnErrorUnlessTrained) {
  Inputs given = inputs();
  given.text.reset();
  EXPECT_EQ(refusal(given),
            "input 'text' is absent, but this model was not trained without it; pass its features (train with "
            "training.modality_dropout to allow absence)");
  given = inputs();
  given.audio.reset();
  given.vision.reset();
  auto runtime = Runtime::open(folder, options());
  const auto prediction = runtime->predict(given);
  ASSERT_TRUE(prediction.ok()) << prediction.status().message();
  EXPECT_NEAR(prediction->score[0], 0.3 * 12 / 27, 1e-6);  // the others count as zeros
}

TEST_F(InputsTest, AllAbsentIsAnErrorEvenWhenEachMayBe) {
  manifest["inputs"]["text"]["trained_absent"] = true;
  write();
  EXPECT_EQ(refusal(Inputs{}), "all inputs are absent; pass at least one modality");
}

TEST_F(InputsTest, CountsAndReportsValuesOutsideTheTrainingRange) {
  std::vector<RangeAlarm> seen;
  Options with = options();
  with.on_out_of_range = [&](View<const RangeAlarm> alarms) { seen.assign(alarms.begin(), alarms.end()); };
  auto runtime = Runtime::open(folder, with);
  Inputs given = inputs();
  ASSERT_TRUE(runtime->predict(given).ok());
  EXPECT_EQ(runtime->stats().out_of_range, 0U);
  audio.assign(kAudioSize, 0.0F);  // the first two steps are padding and do not count
  audio[4] = 2.5F;                 // beyond 1 + half the width of 2
  audio[5] = 1.9F;                 // within the margin
  const auto prediction = runtime->predict(given);
  ASSERT_TRUE(prediction.ok());
  EXPECT_DOUBLE_EQ(prediction->out_of_range[1], 0.5);
  EXPECT_DOUBLE_EQ(prediction->out_of_range[0], 0.0);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].modality, 1U);
  EXPECT_EQ(runtime->stats().out_of_range, 1U);
}

TEST_F(InputsTest, ACallbackThatThrowsIsCountedAndDoesNotCostTheAnswer) {
  Options with = options();
  bool plain = false;
  with.on_out_of_range = [&](View<const RangeAlarm>) {
    if (plain) throw 1;  // NOLINT: no exception class
    throw std::runtime_error("no");
  };
  auto runtime = Runtime::open(folder, with);
  auto silent = Runtime::open(folder, options());
  Inputs given = inputs();
  text.assign(kTextSize, 100.0F);
  const auto expected = silent->predict(given);
  ASSERT_TRUE(expected.ok());
  const auto found = runtime->predict(given);
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_EQ(found->score[0], expected->score[0]);
  EXPECT_EQ(found->out_of_range, expected->out_of_range);
  plain = true;
  EXPECT_TRUE(runtime->explain(given).ok());
  EXPECT_EQ(runtime->stats().out_of_range, 2U);
  EXPECT_EQ(runtime->stats().callback_failures, 2U);
  EXPECT_EQ(silent->stats().callback_failures, 0U);
  runtime->reset_stats();
  EXPECT_EQ(runtime->stats().callback_failures, 0U);
}

}  // namespace
}  // namespace dmdkit
