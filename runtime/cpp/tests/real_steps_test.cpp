#include "real_steps.hpp"

#include <algorithm>
#include <vector>

#include "bundle.hpp"
#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

// The small bundle as of a model trained on real steps: its graphs take how many there are.
class RealStepsTest : public BundleTest {
 protected:
  void SetUp() override {
    BundleTest::SetUp();
    manifest["schema_minor"] = 2;
    manifest["requires"] = {{{"name", "real-steps"}, {"since", "0.2.0"}}};
    manifest["model"]["kernels"] = {{"text", 2}, {"audio", 2}, {"vision", 2}};
    fusion_text += " steps=";
    explain_text += " steps=";
    // Of samples without a value all steps count, three; the fake answers the mean of what goes in plus the output's index.
    for (auto& [name, tensor] : golden) {
      if (name.rfind("recorded/", 0) != 0) continue;
      for (float& value : tensor.values) value += 3.0F / 28.0F;
    }
    write();
  }

  // The mean of what goes in, every value of the first `real` steps being 1.
  static float expected(std::size_t real) { return static_cast<float>(10 * real) / 28.0F; }

  // A sample of three steps of which the first `real` are there.
  Inputs sample(std::size_t real) {
    const auto fill = [&](std::vector<float>& values, std::size_t width) {
      values.assign(3 * width, 0.0F);
      std::fill(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(real * width), 1.0F);
    };
    fill(text, 4), fill(audio, 2), fill(vision, 3);
    return {text, audio, vision, 1};
  }
};

TEST_F(RealStepsTest, GraphsAreToldHowManyStepsAreReal) {
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  for (const std::size_t real : {2, 3}) {
    const auto prediction = runtime->predict(sample(real));
    ASSERT_TRUE(prediction.ok()) << prediction.status().message();
    EXPECT_NEAR(prediction->score[0], expected(real), 1e-6);
    EXPECT_NEAR(runtime->explain(sample(real))->score[0], expected(real), 1e-6);
  }
  Inputs one_modality = sample(2);
  text.assign(12, 0.0F), audio.assign(6, 0.0F);
  EXPECT_NEAR(runtime->predict(one_modality)->score[0], (6.0F + 2.0F) / 28.0F, 1e-6);
}

TEST_F(RealStepsTest, StepsBeforeTheFirstOneArePaddingToo) {
  const InputRecords records = Bundle::open((write(), folder)).manifest().inputs;
  sample(3);
  for (std::vector<float>* values : {&text, &audio, &vision}) {
    const std::size_t width = values->size() / 3;
    for (std::size_t i = 0; i < values->size(); ++i) (*values)[i] = i < width ? 0.0F : static_cast<float>(i / width);
  }
  std::fill(audio.begin(), audio.begin() + 4, 0.0F);  // silent for a step more than the others
  move_own_steps_in_front({text.data(), audio.data(), vision.data()}, records, 1);
  EXPECT_EQ(text, (std::vector<float>{1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0}));
  EXPECT_EQ(audio, (std::vector<float>{0, 0, 2, 2, 0, 0}));
  EXPECT_EQ(vision, (std::vector<float>{1, 1, 1, 2, 2, 2, 0, 0, 0}));
  std::fill(text.begin(), text.end(), 0.0F), std::fill(audio.begin(), audio.end(), 0.0F);
  std::fill(vision.begin(), vision.end(), 0.0F);
  move_own_steps_in_front({text.data(), audio.data(), vision.data()}, records, 1);
  EXPECT_EQ(text, std::vector<float>(12, 0.0F));
}

TEST_F(RealStepsTest, ASampleShorterThanItsKernelIsNamed) {
  auto runtime = Runtime::open(folder, options());
  const Status refused = runtime->predict(sample(1)).status();
  EXPECT_EQ(refused.message(), "sample 0 has 1 steps; the model needs at least 2, those under its kernel");
  EXPECT_EQ(runtime->predict(sample(0)).status().message(),
            "sample 0 has 0 steps; the model needs at least 2, those under its kernel");
  EXPECT_TRUE(runtime->predict(sample(3)).ok());
}

TEST_F(RealStepsTest, TheSelfCheckCountsStepsToo) {
  auto runtime = Runtime::open(folder, options());
  const auto check = runtime->self_check(true);
  ASSERT_TRUE(check.ok()) << check.status().message();
  EXPECT_TRUE(check->passed);
}

TEST_F(RealStepsTest, AGraphWithoutStepsOrSizesThatCannotBeAreRefused) {
  const std::string whole = fusion_text;
  fusion_text.resize(whole.size() - 7);
  write();
  EXPECT_EQ(open_status().code(), StatusCode::kBundleDamaged);
  fusion_text = whole;
  manifest["model"]["kernels"]["text"] = 4;
  write();
  EXPECT_NE(open_status().message().find("equally many in every modality"), std::string::npos) << open_status().message();
}

}  // namespace
}  // namespace dmdkit
