// The node's logic over the fake backend, whose score is the mean of the features. Built by dmdkit's own CMake, without ROS.
#include "dmdkit_ros/emotion_logic.hpp"

#include <algorithm>
#include <limits>

#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

using dmdkit_ros::Answer;
using dmdkit_ros::EmotionLogic;
using dmdkit_ros::Level;
using dmdkit_ros::Modality;
using dmdkit_ros::Report;
using dmdkit_ros::Sample;
using dmdkit_ros::Settings;

class EmotionLogicTest : public BundleTest {
 protected:
  Settings settings() const {
    Settings with;
    with.bundle = folder;
    with.runtime = options();
    with.self_check = false;
    return with;
  }

  Sample sample(double age_ms = 0.0) const {
    Sample given;
    given.modalities = {Modality{text, false}, Modality{audio, false}, Modality{vision, false}};
    given.age_ms = age_ms;
    return given;
  }

  static std::string value_of(const Report& report, const std::string& key) {
    for (const auto& [name, value] : report.values) {
      if (name == key) return value;
    }
    return "missing";
  }
};

// The same with a text encoder, of whose tokens every feature is a hundredth of the id.
class WordsTest : public EmotionLogicTest {
 protected:
  void SetUp() override {
    EmotionLogicTest::SetUp();
    add_text_encoder();
    text.clear();
  }
};

TEST_F(WordsTest, ASentenceStandsUntilTheNextOne) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok()) << logic.status().message();
  Answer answer = logic->handle(sample());
  EXPECT_EQ(answer.outcome, Answer::Outcome::kDropped);
  EXPECT_EQ(logic->report().message, "1 samples without words");
  ASSERT_TRUE(logic->say("good", 0));
  const float first = logic->handle(sample()).prediction.score[0];
  EXPECT_FLOAT_EQ(logic->handle(sample()).prediction.score[0], first);
  EXPECT_FLOAT_EQ(logic->explain(sample())->score[0], first);
  ASSERT_TRUE(logic->say("", 0));
  EXPECT_LT(logic->handle(sample()).prediction.score[0], first) << "nothing said is a sentence, too";
  ASSERT_TRUE(logic->say("good good good", 0));
  answer = logic->handle(sample());
  EXPECT_EQ(answer.prediction.truncated, 1U);
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kWarn);
  EXPECT_EQ(report.message, "1 sentences cut");
  EXPECT_EQ(value_of(report, "text_graph"), "text.fp32");
  text.assign(kTextSize, 0.3F);  // features of its own win
  EXPECT_FLOAT_EQ(logic->handle(sample()).prediction.score[0], 0.3F);
}

TEST_F(WordsTest, AnOldSentenceIsForgotten) {
  Settings with = settings();
  with.max_words_age_ms = 50.0;
  auto logic = EmotionLogic::open(with);
  ASSERT_TRUE(logic.ok()) << logic.status().message();
  ASSERT_TRUE(logic->say("good", 0));
  EXPECT_EQ(logic->handle(sample(), 49'000'000).outcome, Answer::Outcome::kPredicted);
  EXPECT_EQ(logic->handle(sample(), 51'000'000).outcome, Answer::Outcome::kDropped);
}

TEST_F(WordsTest, WordsThatAreNotUtf8FailTheSampleAndNothingElse) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic->say("\xFF", 0));
  const Answer answer = logic->handle(sample());
  EXPECT_EQ(answer.outcome, Answer::Outcome::kFailed);
  EXPECT_NE(answer.problem.find("not UTF-8"), std::string::npos);
  ASSERT_TRUE(logic->say("good", 0));
  EXPECT_EQ(logic->handle(sample()).outcome, Answer::Outcome::kPredicted);
}

TEST_F(EmotionLogicTest, ABundleWithoutAnEncoderRefusesWords) {
  auto logic = EmotionLogic::open(settings());
  EXPECT_FALSE(logic->say("good", 0));
  EXPECT_EQ(logic->report().level, Level::kError);
}

TEST_F(EmotionLogicTest, PredictsAndExplainsNowAndThen) {
  Settings with = settings();
  with.explain_every = 2;
  auto logic = EmotionLogic::open(with);
  ASSERT_TRUE(logic.ok()) << logic.status().message();
  for (int i = 0; i < 5; ++i) {
    std::fill(text.begin(), text.end(), 0.1F * static_cast<float>(i));
    const Answer answer = logic->handle(sample());
    ASSERT_EQ(answer.outcome, Answer::Outcome::kPredicted) << answer.problem;
    ASSERT_EQ(answer.prediction.score.size(), 1U);
    EXPECT_EQ(answer.explain_due, i % 2 == 0);
    if (answer.explain_due) {
      const auto explanation = logic->explain(sample());
      ASSERT_TRUE(explanation.ok()) << explanation.status().message();
      EXPECT_EQ(explanation->edges_homo.size(), kEdges);
      EXPECT_FLOAT_EQ(answer.prediction.score[0], explanation->score[0]) << "of the same sample";
    }
  }
}

TEST_F(EmotionLogicTest, LogitsComeInTheOrderOfTheInputs) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok()) << logic.status().message();
  auto own = Runtime::open(folder, options());
  ASSERT_TRUE(own.ok());
  ASSERT_EQ(own->modality_order()[1], "vision") << "the bundle's order must differ from the inputs' for this test";
  const auto plain = own->explain(inputs());
  const auto ordered = logic->explain(sample());
  ASSERT_TRUE(plain.ok() && ordered.ok());
  ASSERT_NE(plain->logit_homo[1], plain->logit_homo[2]);
  for (const auto& [from, to] :
       {std::pair(plain->logit_homo, ordered->logit_homo), std::pair(plain->logit_hetero, ordered->logit_hetero)}) {
    EXPECT_EQ(to[0], from[0]);
    EXPECT_EQ(to[1], from[2]) << "audio";
    EXPECT_EQ(to[2], from[1]) << "vision";
  }
}

TEST_F(EmotionLogicTest, NoStampMakesAnAgeThatThrowsOrOverflows) {
  EXPECT_EQ(dmdkit_ros::age_ms(3'000'000'000, 1, 500'000'000), 1500.0);
  EXPECT_EQ(dmdkit_ros::age_ms(0, 2, 0), -2000.0) << "from the future";
  EXPECT_EQ(dmdkit_ros::age_ms(1'000'000'000, -1, 0), 2000.0);
  EXPECT_GT(dmdkit_ros::age_ms(std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int32_t>::min(), 0), 1.1e13);
  EXPECT_LT(dmdkit_ros::age_ms(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int32_t>::max(), ~0U),
            -1.1e13);
}

TEST_F(EmotionLogicTest, SamplesThatWereNeverHandledAreReported) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok());
  logic->handle(sample());
  logic->add_superseded(3);
  logic->add_lost(2);
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kWarn);
  EXPECT_EQ(report.message, "3 samples superseded by newer ones, 2 samples lost by the middleware");
  EXPECT_EQ(value_of(report, "superseded"), "3");
  EXPECT_EQ(value_of(report, "lost"), "2");
  EXPECT_EQ(logic->report(false).message, "inactive");
}

TEST_F(EmotionLogicTest, AProblemThatWasReportedIsForgotten) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok());
  Sample wrong = sample();
  wrong.modalities[0].values = FloatView(text.data(), text.size() - 1);
  logic->handle(wrong);
  EXPECT_NE(value_of(logic->report(), "last_problem"), "");
  logic->handle(sample());
  EXPECT_EQ(value_of(logic->report(), "last_problem"), "");
}

TEST_F(EmotionLogicTest, TheSummaryNamesTheSizesThatAreExpected) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok());
  const std::string summary = logic->summary();
  EXPECT_NE(summary.find("regression, 1 outputs"), std::string::npos) << summary;
  EXPECT_NE(summary.find("text 3 x 4 audio 3 x 2 (may be absent) vision 3 x 3 (may be absent)"), std::string::npos) << summary;
}

TEST_F(EmotionLogicTest, AnUnsetBundleIsCalledUnset) {
  Settings with = settings();
  with.bundle.clear();
  const auto refused = EmotionLogic::open(with);
  EXPECT_EQ(refused.status().message().find("parameter 'bundle' is not set"), 0U) << refused.status().message();
}

TEST_F(EmotionLogicTest, DoesNotStartOnADamagedBundleOrAFailedSelfCheck) {
  Settings with = settings();
  with.bundle = folder + "/none";
  EXPECT_EQ(EmotionLogic::open(with).code(), StatusCode::kBundleNotFound);
  golden["recorded/fusion.int8-cpu/score"].values = {5.0F, 7.0F};
  write();
  with = settings();
  with.self_check = true;
  const auto refused = EmotionLogic::open(with);
  EXPECT_EQ(refused.code(), StatusCode::kBackendFailed);
  EXPECT_NE(refused.status().message().find("the self-check did not pass"), std::string::npos) << refused.status().message();
}

TEST_F(EmotionLogicTest, WrongSizesNanAndAbsenceAreAnswersNotCrashes) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok());
  Sample wrong = sample();
  wrong.modalities[0].values = FloatView(text.data(), text.size() - 1);
  EXPECT_EQ(logic->handle(wrong).outcome, Answer::Outcome::kFailed);
  wrong.modalities[0] = Modality{FloatView(), false};  // an empty message
  EXPECT_EQ(logic->handle(wrong).outcome, Answer::Outcome::kFailed);
  wrong = sample();
  wrong.modalities[0].absent = true;  // the bundle was not trained without text
  EXPECT_NE(logic->handle(wrong).problem.find("text"), std::string::npos);
  audio[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(logic->handle(sample()).problem.find("nan"), std::string::npos);
  Sample absent = sample();
  absent.modalities[1] = Modality{FloatView(), true};  // it was without audio
  EXPECT_EQ(logic->handle(absent).outcome, Answer::Outcome::kPredicted);
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kError);
  EXPECT_EQ(report.message.find("4 samples failed; the last: input 'audio' holds nan"), 0U) << report.message;
  EXPECT_EQ(value_of(report, "failed"), "4");
}

TEST_F(EmotionLogicTest, OldFeaturesAreDroppedAndReported) {
  Settings with = settings();
  with.max_age_ms = 50.0;
  auto logic = EmotionLogic::open(with);
  ASSERT_TRUE(logic.ok());
  const Answer answer = logic->handle(sample(80.0));
  EXPECT_EQ(answer.outcome, Answer::Outcome::kDropped);
  EXPECT_EQ(answer.problem, "features are 80.000 ms old, 50.000 ms are allowed");
  EXPECT_EQ(logic->handle(sample(50.0)).outcome, Answer::Outcome::kPredicted);
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kWarn);
  EXPECT_EQ(report.message, "1 samples too old");
  EXPECT_EQ(value_of(report, "too_old"), "1");
}

TEST_F(EmotionLogicTest, ReportsSayWhatHappenedSinceTheLastOne) {
  fusion_text += " throttle_us=2000";
  write();
  Settings with = settings();
  with.runtime.deadline_us = 500;
  auto logic = EmotionLogic::open(with);
  ASSERT_TRUE(logic.ok());
  EXPECT_EQ(logic->report().level, Level::kStale);
  EXPECT_TRUE(logic->handle(sample()).prediction.deadline_missed);
  std::fill(text.begin(), text.end(), 50.0F);
  logic->handle(sample());
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kWarn);
  EXPECT_EQ(report.message, "2 deadlines missed, 1 samples outside the training range");
  EXPECT_EQ(value_of(report, "deadline_misses"), "2");
  EXPECT_GE(std::stod(value_of(report, "p99_ms")), std::stod(value_of(report, "p50_ms")));
  EXPECT_GT(std::stod(value_of(report, "p50_ms")), 1.0);
  EXPECT_EQ(logic->report().level, Level::kStale) << "the misses were reported";
}

TEST_F(EmotionLogicTest, AQuietRunIsOk) {
  auto logic = EmotionLogic::open(settings());
  ASSERT_TRUE(logic.ok());
  logic->handle(sample());
  const Report report = logic->report();
  EXPECT_EQ(report.level, Level::kOk);
  EXPECT_EQ(report.message, "1 predictions");
  EXPECT_EQ(value_of(report, "graph"), "fusion.int8-cpu");
}

}  // namespace
}  // namespace dmdkit
