// The node against stand-ins for ROS (runtime/ros2/stand_in) with the signatures and rules of one distribution: what a message,
// a parameter or a transition may do to it, and what others hear.
#include <algorithm>
#include <limits>

#include "emotion_node_fixture.hpp"

namespace dmdkit {
namespace {

TEST_F(EmotionNodeTest, FeaturesInScoreOut) {
  make_active();
  send(features(0.25F));
  executor.spin_some();
  const auto scores = heard_on<Emotion>("/emotion/emotion");
  ASSERT_EQ(scores.size(), 1U);
  EXPECT_FLOAT_EQ(scores[0]->score.at(0), 0.25F);
  EXPECT_EQ(scores[0]->header.frame_id, "face");
}

TEST_F(EmotionNodeTest, WordsComeAsStringsAndAsSpeech) {
  add_text_encoder();
  replace("self_check", rclcpp::ParameterValue(false));  // the fixture has no golden sentences
  make_active();
  Features message = features(0.3F);
  message.text.clear();
  const auto words = stand_in::middleware().write("/emotion/words", rclcpp::QoS(10));
  const auto speech = stand_in::middleware().write("/emotion/speech", rclcpp::QoS(10));
  const auto score_after = [&] {
    executor.spin_some();
    send(message);
    executor.spin_some();
    return heard_on<Emotion>("/emotion/emotion").back()->score.at(0);
  };
  std_msgs::msg::String sentence;
  sentence.data = "good";
  stand_in::middleware().publish(*words, std::make_shared<const std_msgs::msg::String>(sentence));
  const float said = score_after();
  hri_msgs::msg::LiveSpeech spoken;
  spoken.incremental = "";
  stand_in::middleware().publish(*speech, std::make_shared<const hri_msgs::msg::LiveSpeech>(spoken));
  EXPECT_LT(score_after(), said);
  spoken.incremental = "go";
  spoken.final = "good";
  stand_in::middleware().publish(*speech, std::make_shared<const hri_msgs::msg::LiveSpeech>(spoken));
  EXPECT_FLOAT_EQ(score_after(), said);
}

TEST_F(EmotionNodeTest, NoStampEndsTheProcess) {
  make_active();
  for (const std::int32_t seconds :
       {-1, 0, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()}) {
    Features message = features();
    message.header.stamp.sec = seconds;
    message.header.stamp.nanosec = std::numeric_limits<std::uint32_t>::max();
    send(message);
    ASSERT_NO_THROW(executor.spin_some()) << seconds;
  }
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 4U);
}

TEST_F(EmotionNodeTest, ANegativeStampIsTooOld) {
  replace("max_age_ms", rclcpp::ParameterValue(50));
  make_active();
  Features message = features();
  message.header.stamp.sec = -3;
  send(message);
  ASSERT_NO_THROW(executor.spin_some());
  EXPECT_TRUE(heard_on<Emotion>("/emotion/emotion").empty());
  const DiagnosticStatus status = diagnostics();
  EXPECT_EQ(status.level, DiagnosticStatus::WARN);
  EXPECT_EQ(status.message, "1 samples too old");
}

TEST_F(EmotionNodeTest, ADefaultSubscriberHearsEverything) {
  const auto score = stand_in::middleware().read("/emotion/emotion", rclcpp::QoS(10));
  const auto why = stand_in::middleware().read("/emotion/explanation", rclcpp::QoS(10));
  replace("explain_every", rclcpp::ParameterValue(1));
  make_active();
  send(features());
  executor.spin_some();
  EXPECT_EQ(score->queue.size(), 1U);
  EXPECT_EQ(why->queue.size(), 1U);
}

TEST_F(EmotionNodeTest, BothReliableAndBestEffortSendersAreHeard) {
  make_active();
  send(features());
  executor.spin_some();
  speaker.reset();
  speaker_qos = rclcpp::QoS(10);
  send(features());
  executor.spin_some();
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 2U);
}

TEST_F(EmotionNodeTest, QualityOfServiceCanBeOverriddenInBothDirections) {
  given.emplace_back("qos_overrides./emotion/emotion.publisher.reliability", std::string("best_effort"));
  given.emplace_back("qos_overrides./emotion/features.subscription.reliability", std::string("reliable"));
  make_active();
  send(features());  // best effort, which a reliable subscriber does not hear
  executor.spin_some();
  EXPECT_TRUE(heard_on<Emotion>("/emotion/emotion").empty());
  const auto writer = stand_in::middleware().find_writer("/emotion/emotion");
  ASSERT_NE(writer, nullptr);
  EXPECT_EQ(writer->qos.reliability(), rclcpp::ReliabilityPolicy::BestEffort);
  ASSERT_EQ(node->deactivate().id(), kInactive);
  ASSERT_EQ(node->cleanup().id(), kUnconfigured);
  EXPECT_EQ(node->configure().id(), kInactive) << "the overrides are declared already";
}

TEST_F(EmotionNodeTest, AnOverrideThatDoesNotExistFailsToConfigure) {
  given.emplace_back("qos_overrides./emotion/emotion.publisher.reliability", std::string("sure"));
  make();
  EXPECT_EQ(node->configure().id(), kUnconfigured);
  EXPECT_EQ(logged("ERROR", "unknown QoS policy"), 1U);
}

TEST_F(EmotionNodeTest, TheScoreIsPublishedBeforeItIsExplained) {
  replace("explain_every", rclcpp::ParameterValue(1));
  make_active();
  send(features());
  executor.spin_some();
  std::vector<std::string> topics;
  for (const auto& [topic, message] : stand_in::middleware().published) {
    if (topic == "/emotion/emotion" || topic == "/emotion/explanation") topics.push_back(topic);
  }
  EXPECT_EQ(topics, (std::vector<std::string>{"/emotion/emotion", "/emotion/explanation"}));
  EXPECT_EQ(heard_on<Explanation>("/emotion/explanation").at(0)->modality_order,
            (std::array<std::string, 3>{"text", "audio", "vision"}));
}

TEST_F(EmotionNodeTest, AFailedExplanationDoesNotCostTheScore) {
  explain_text += " fail_run";
  write();
  replace("explain_every", rclcpp::ParameterValue(1));
  replace("self_check", rclcpp::ParameterValue(false));
  make_active();
  send(features());
  executor.spin_some();
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 1U);
  EXPECT_TRUE(heard_on<Explanation>("/emotion/explanation").empty());
  EXPECT_EQ(diagnostics().level, DiagnosticStatus::ERROR);
}

TEST_F(EmotionNodeTest, IntegersAreTakenForNumbersAndText) {
  replace("max_age_ms", rclcpp::ParameterValue(50));
  replace("affinity", rclcpp::ParameterValue(2));
  replace("diagnostics_period_s", rclcpp::ParameterValue(2));
  ASSERT_NO_THROW(make_active());
  replace("bundle", rclcpp::ParameterValue(2024));
  ASSERT_NO_THROW(make());
  EXPECT_EQ(node->configure().id(), kUnconfigured);
  EXPECT_EQ(logged("ERROR", "2024"), 1U) << "a bundle of that name is not there";
}

TEST_F(EmotionNodeTest, AWrongTypeOrRangeFailsToConfigureAndSaysWhy) {
  for (const auto& [name, value, reason] : {std::tuple("threads", rclcpp::ParameterValue("two"), "expected an integer"),
                                            std::tuple("deadline_us", rclcpp::ParameterValue(-5), "deadline_us"),
                                            std::tuple("max_age_ms", rclcpp::ParameterValue(-0.5), "max_age_ms")}) {
    stand_in::log_lines().clear();
    replace(name, value);
    ASSERT_NO_THROW(make()) << name;
    EXPECT_EQ(node->configure().id(), kUnconfigured) << name;
    EXPECT_GE(logged("ERROR", reason), 1U) << name;
    EXPECT_EQ(diagnostics().level, DiagnosticStatus::ERROR) << name;
    const auto standard = dmdkit_ros::find_parameter(name)->standard;
    const auto set =
        std::visit([&, n = std::string(name)](const auto& held) { return node->set_parameter(Parameter(n, held)); }, standard);
    ASSERT_TRUE(set.successful) << set.reason;
    EXPECT_EQ(node->configure().id(), kInactive) << "once it is put right";
    replace(name, std::visit([](const auto& held) { return rclcpp::ParameterValue(held); }, standard));
  }
}

TEST_F(EmotionNodeTest, ParametersOfAConfiguredNodeAreRefusedNotIgnored) {
  make();
  EXPECT_TRUE(node->set_parameter(Parameter("deadline_us", 500)).successful);
  EXPECT_FALSE(node->set_parameter(Parameter("deadline_us", -5)).successful);
  EXPECT_FALSE(node->set_parameter(Parameter("deadline_us", rclcpp::ParameterValue())).successful) << "deleted";
  ASSERT_EQ(node->configure().id(), kInactive);
  ASSERT_EQ(node->activate().id(), kActive);
  const auto refused = node->set_parameter(Parameter("deadline_us", 900));
  EXPECT_FALSE(refused.successful);
  EXPECT_NE(refused.reason.find("read when the node is configured"), std::string::npos) << refused.reason;
  EXPECT_EQ(node->get_parameter("deadline_us").as_int(), 500);
  EXPECT_TRUE(node->set_parameter(Parameter("deadline_us", 500)).successful) << "nothing to change";
  node->deactivate();
  node->cleanup();
  EXPECT_TRUE(node->set_parameter(Parameter("deadline_us", 900)).successful);
}

TEST_F(EmotionNodeTest, DescriptorsHaveTheRanges) {
  make();
  const auto deadline = node->describe_parameter("deadline_us");
  ASSERT_EQ(deadline.integer_range.size(), 1U);
  EXPECT_EQ(deadline.integer_range[0].from_value, 0);
  EXPECT_EQ(deadline.integer_range[0].to_value, 3'600'000'000);
  const auto period = node->describe_parameter("diagnostics_period_s");
  ASSERT_EQ(period.floating_point_range.size(), 1U);
  EXPECT_EQ(period.floating_point_range[0].from_value, 0.1);
  EXPECT_FALSE(node->describe_parameter("bundle").description.empty());
}

TEST_F(EmotionNodeTest, OnlyTheNewestSampleIsPredictedAndTheOthersAreCounted) {
  make_active();
  for (int i = 1; i <= 10; ++i) send(features(0.01F * static_cast<float>(i)));
  executor.spin_some();
  const auto scores = heard_on<Emotion>("/emotion/emotion");
  ASSERT_EQ(scores.size(), 1U);
  EXPECT_FLOAT_EQ(scores[0]->score.at(0), 0.1F);
  const DiagnosticStatus status = diagnostics();
  EXPECT_EQ(status.level, DiagnosticStatus::WARN);
  EXPECT_EQ(status.message, "9 samples superseded by newer ones");
  EXPECT_EQ(value_of(status, "superseded"), "9");
}

TEST_F(EmotionNodeTest, SupersededSamplesAreCountedWhereMessagesMayPassInsideTheProcess) {
  node_options.use_intra_process_comms(true);
  make_active();  // Humble refuses a latched topic inside a process
  for (int i = 0; i < 4; ++i) send(features());
  executor.spin_some();
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 1U);
  EXPECT_EQ(value_of(diagnostics(), "superseded"), "3");
}

TEST_F(EmotionNodeTest, WhatTheMiddlewareLosesIsReported) {
  make_active();
  const auto subscription =
      std::dynamic_pointer_cast<rclcpp::Subscription<Features>>(node->get_node_base_interface()->subscriptions.back().lock());
  ASSERT_NE(subscription, nullptr);
  subscription->lose(7);
  EXPECT_EQ(diagnostics().message, "7 samples lost by the middleware");
}

TEST_F(EmotionNodeTest, AMiddlewareThatDoesNotCountLostMessagesIsFine) {
  stand_in::middleware().counts_lost_messages = false;
  make_active();
  send(features());
  executor.spin_some();
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 1U);
}

TEST_F(EmotionNodeTest, WarningsAreThrottledByTheSteadyClock) {
  stand_in::clocks().use_sim_time = true;  // and nobody publishes /clock
  make_active();
  Features wrong = features();
  wrong.text.pop_back();
  const auto warnings = [&] { return logged("WARN", "input 'text'"); };
  for (int i = 0; i < 3; ++i) {
    send(wrong);
    executor.spin_some();
  }
  EXPECT_EQ(warnings(), 1U);
  stand_in::clocks().steady_ns += 2 * kSecond;
  send(wrong);
  executor.spin_some();
  EXPECT_EQ(warnings(), 2U);
}

TEST_F(EmotionNodeTest, DiagnosticsSayTheStateWheneverTheNodeLives) {
  make();
  EXPECT_EQ(diagnostics().message, "unconfigured");
  ASSERT_EQ(node->configure().id(), kInactive);
  DiagnosticStatus status = diagnostics();
  EXPECT_EQ(status.message, "inactive");
  EXPECT_EQ(status.level, DiagnosticStatus::STALE);
  EXPECT_EQ(status.name, "/emotion: predictions");
  EXPECT_EQ(value_of(status, "deadline_misses"), "0");
  EXPECT_EQ(value_of(status, "state"), "inactive");
  ASSERT_EQ(node->activate().id(), kActive);
  send(features());
  executor.spin_some();
  EXPECT_EQ(diagnostics().level, DiagnosticStatus::OK);
  node->deactivate();
  EXPECT_EQ(diagnostics().message, "inactive");
}

TEST_F(EmotionNodeTest, AProblemIsToldOnceAndCleared) {
  make_active();
  Features wrong = features();
  wrong.audio.clear();
  send(wrong);
  executor.spin_some();
  DiagnosticStatus status = diagnostics();
  EXPECT_EQ(status.level, DiagnosticStatus::ERROR);
  EXPECT_NE(value_of(status, "last_problem"), "");
  send(features());
  executor.spin_some();
  status = diagnostics();
  EXPECT_EQ(status.level, DiagnosticStatus::OK) << status.message;
  EXPECT_EQ(value_of(status, "last_problem"), "");
}

TEST_F(EmotionNodeTest, WhatIsExpectedIsLoggedAndLatched) {
  make();
  ASSERT_EQ(node->configure().id(), kInactive);
  EXPECT_EQ(logged("INFO", "text 3 x 4 audio 3 x 2 (may be absent) vision 3 x 3"), 1U);
  const auto late = stand_in::middleware().read("/emotion/info", rclcpp::QoS(1).transient_local());
  ASSERT_EQ(late->queue.size(), 1U);
  const Info& info = *static_cast<const Info*>(late->queue.front().get());
  EXPECT_EQ(info.name, "fake");
  EXPECT_EQ(info.task, "regression");
  EXPECT_EQ(info.outputs, 1U);
  EXPECT_EQ(info.label_range, (std::array<float, 2>{-3.0F, 3.0F}));
  EXPECT_TRUE(info.labels.empty());
  EXPECT_EQ(info.modality_order, (std::array<std::string, 3>{"text", "audio", "vision"}));
  EXPECT_EQ(info.steps, (std::array<std::uint32_t, 3>{3, 3, 3}));
  EXPECT_EQ(info.features, (std::array<std::uint32_t, 3>{4, 2, 3}));
  EXPECT_EQ(info.may_be_absent, (std::array<bool, 3>{false, true, true}));
  EXPECT_EQ(info.graph, "fusion.int8-cpu");
}

TEST_F(EmotionNodeTest, AnUnsetOrMissingBundleFailsToConfigureAndSaysSo) {
  replace("bundle", rclcpp::ParameterValue(""));
  make();
  EXPECT_EQ(node->configure().id(), kUnconfigured);
  EXPECT_EQ(logged("ERROR", "parameter 'bundle' is not set"), 1U);
  const DiagnosticStatus status = diagnostics();
  EXPECT_EQ(status.level, DiagnosticStatus::ERROR);
  EXPECT_NE(status.message.find("could not be configured: parameter 'bundle' is not set"), std::string::npos) << status.message;
}

TEST_F(EmotionNodeTest, AutostartConfiguresAndActivates) {
  given.emplace_back("autostart", true);
  make();
  EXPECT_EQ(node->get_current_state().id(), kUnconfigured) << "not inside the constructor";
  executor.spin_some();
  EXPECT_EQ(node->get_current_state().id(), kActive);
  replace("bundle", rclcpp::ParameterValue("/nowhere"));
  make();
  ASSERT_NO_THROW(executor.spin_some());
  EXPECT_EQ(node->get_current_state().id(), kUnconfigured);
}

TEST_F(EmotionNodeTest, TransitionsAndMessagesMayComeInAnyOrder) {
  make();
  send(features());
  executor.spin_some();
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(node->configure().id(), kInactive);
    send(features());
    executor.spin_some();
    ASSERT_EQ(node->activate().id(), kActive);
    send(features());
    executor.spin_some();
    ASSERT_EQ(node->deactivate().id(), kInactive);
    send(features());
    executor.spin_some();
    ASSERT_EQ(node->cleanup().id(), kUnconfigured);
    executor.spin_some();
  }
  EXPECT_EQ(heard_on<Emotion>("/emotion/emotion").size(), 20U);
  EXPECT_EQ(logged("WARN", "not activated"), 0U);
  node->shutdown();
  ASSERT_NO_THROW(diagnostics());
}

}  // namespace
}  // namespace dmdkit
