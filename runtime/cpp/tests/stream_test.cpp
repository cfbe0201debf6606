#include "dmdkit/stream.hpp"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <tuple>

#include "stream_fixture.hpp"

namespace dmdkit {
namespace {

TEST_F(StreamTest, EveryStepIsAnsweredFromTheStepsSoFar) {
  auto stream = open_stream();
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  EXPECT_EQ(stream->graph(), "stream.fp32");
  EXPECT_EQ(stream->limit(), kWindow);
  EXPECT_EQ(stream->unanswered(), kKernel - 1);
  for (std::size_t step = 0; step < kWindow; ++step) {
    const auto answer = stream->push(steps(step));
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_EQ(stream->heard(), step + 1);
    ASSERT_EQ(answer->count, step + 1 < kKernel ? 0U : 1U);
    if (answer->count == 0) continue;
    EXPECT_EQ(answer->steps, step + 1);
    EXPECT_EQ(answer->score[0], expected(step, step + 1));
    EXPECT_EQ(answer->logit_hetero[2], expected(step, step + 1) + 2.0F);
    ASSERT_EQ(answer->edges_hetero.size(), kEdges);
    EXPECT_GT(answer->latency_ms, 0.0);
  }
}

TEST_F(StreamTest, SeveralStepsAtOnceAreAnsweredAsOneByOne) {
  for (const std::vector<std::size_t>& pushes : {std::vector<std::size_t>{7}, {2, 5}, {1, 4, 2}, {4, 1, 1, 1}, {3, 3, 1}}) {
    auto stream = open_stream();
    ASSERT_TRUE(stream.ok());
    std::vector<float> scores;
    std::size_t at = 0;
    for (const std::size_t count : pushes) {
      const auto answer = stream->push(steps(at, count));
      ASSERT_TRUE(answer.ok()) << answer.status().message();
      scores.insert(scores.end(), answer->score.begin(), answer->score.end());
      at += count;
    }
    ASSERT_EQ(scores.size(), kCapacity);
    for (std::size_t i = 0; i < kCapacity; ++i) EXPECT_EQ(scores[i], expected(i + 2, i + 3)) << at;
  }
}

TEST_F(StreamTest, AFullStreamStopsAndGoesOnAfterAReset) {
  auto stream = open_stream();
  ASSERT_TRUE(stream->push(steps(0, 6)).ok());
  const auto beyond = stream->push(steps(6, 2));
  EXPECT_EQ(beyond.code(), StatusCode::kInvalidInput);
  EXPECT_NE(beyond.status().message().find("heard 6 steps and takes 7"), std::string::npos) << beyond.status().message();
  EXPECT_EQ(stream->heard(), 6U);
  EXPECT_EQ(stream->push(steps(6))->score[0], expected(6, 7));
  EXPECT_FALSE(stream->push(steps(7)).ok());
  ASSERT_TRUE(stream->reset().ok());
  EXPECT_EQ(stream->push(steps(20))->count, 0U);
  EXPECT_EQ(stream->push(steps(21, 2))->score[0], expected(22, 3));
}

TEST_F(StreamTest, WhatLeavesTheTrainingRangeIsReportedAndWhatTheCallbackThrowsCostsNothing) {
  for (const char* name : {"text", "vision"}) {
    nlohmann::json& input = manifest["inputs"][name];
    input["maximum"] = std::vector<double>(input["features"].get<std::size_t>(), 100.0);
  }
  manifest["inputs"]["audio"]["minimum"] = {0.0, 0.0};
  manifest["inputs"]["audio"]["maximum"] = {4.0, 4.0};  // and half of that more: steps from the seventh on are outside
  write_stream();
  std::vector<double> told;
  Stream* open = nullptr;
  Options with = options();
  with.on_out_of_range = [&](View<const RangeAlarm> alarms) {
    told.push_back(alarms[0].share);
    EXPECT_GT(open->heard(), 0U) << "it may ask the stream";
    throw std::runtime_error("of no consequence");
  };
  auto runtime = Runtime::open(folder, with);
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  auto stream = runtime->stream(going_on());
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  open = &*stream;
  for (std::size_t step = 0; step < kWindow; ++step) {
    const auto answer = stream->push(steps(step));
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_DOUBLE_EQ(answer->out_of_range[1], step == 6 ? 1.0 / 7.0 : 0.0);
    EXPECT_EQ(answer->out_of_range[0], 0.0);
  }
  EXPECT_EQ(told, std::vector<double>{1.0 / 7.0});
  ASSERT_TRUE(stream->reset().ok());
  EXPECT_EQ(stream->push(steps(0, 3))->out_of_range[1], 0.0);
}

TEST_F(StreamTest, PastTheWindowAnswersRestOnTheNewestStepsTheySayTheyRestOn) {
  for (const std::size_t count : {1, 2, 3, 5, 16}) {
    auto stream = open_stream(going_on());
    ASSERT_TRUE(stream.ok()) << stream.status().message();
    for (std::size_t step = 0; step < 96; step += count) {
      const auto answer = stream->push(steps(step, count));
      ASSERT_TRUE(answer.ok()) << answer.status().message();
      const std::size_t last = step + count - 1;
      if (answer->count == 0) continue;
      EXPECT_LE(answer->steps, kWindow);
      EXPECT_GE(answer->steps, std::min(last + 1, kWindow / 2 + 1));
      EXPECT_EQ(answer->score[answer->count - 1], expected(last, answer->steps)) << "step " << last;
      if (step >= kKernel) {
        EXPECT_EQ(answer->count, count);
      }
    }
  }
}

// A kernel of 5 under a window of 7: the state after the one that answers begins among steps that this one has heard.
TEST_F(StreamTest, PastTheWindowNoAnswerIsMissingUnderAKernelOfMoreThanHalfOfIt) {
  constexpr std::size_t kWide = 5;
  manifest["model"]["kernels"] = {{"text", kWide}, {"audio", kWide}, {"vision", kWide}};
  manifest["stream"]["kernel"] = kWide;
  manifest["stream"]["capacity"] = kWindow - kWide + 1;
  step_text =
      "fake score=1 logit_hetero=3x1 edges_hetero=6 new_keys_1=2x2xm new_values_1=2x2xm | text=4 audio=2 vision=3 "
      "recent_text:=4x4 recent_audio:=4x2 recent_vision:=4x3 steps:=1 keys_1:=2x2x3 values_1:=2x2x3";
  write_stream();
  for (const std::size_t count : {1, 2, 16}) {
    auto stream = open_stream(going_on());
    ASSERT_TRUE(stream.ok()) << stream.status().message();
    for (std::size_t step = 0; step < 96; step += count) {
      const auto answer = stream->push(steps(step, count));
      ASSERT_TRUE(answer.ok()) << answer.status().message();
      const std::size_t last = step + count - 1;
      if (last + 1 < kWide) continue;
      ASSERT_EQ(answer->count, std::min(count, last + 2 - kWide)) << "step " << last;
      EXPECT_GE(answer->steps, std::min(last + 1, kWide + 1));
      std::size_t sum = 0;
      for (std::size_t end = last + kWide - answer->steps; end <= last; ++end) sum += kWide * (end + 1) - 10;
      EXPECT_EQ(answer->score[answer->count - 1], static_cast<float>(sum * kWidths)) << "step " << last;
      ASSERT_TRUE(stream->restore(*stream->snapshot()).ok());
    }
  }
}

TEST_F(StreamTest, BadStepsAreRefusedAndCostNothingThatWasPushed) {
  auto stream = open_stream();
  ASSERT_TRUE(stream->push(steps(0, 3)).ok());
  Steps wrong = steps(3);
  text.push_back(0.0F);
  wrong.text = text;
  auto refused = stream->push(wrong).status();
  EXPECT_NE(refused.message().find("input 'text' has 5 values, expected (steps, 4) = 4 for 1 step"), std::string::npos)
      << refused.message();
  Steps broken = steps(3, 2);
  vision[4] = std::nanf("");
  refused = stream->push(broken).status();
  EXPECT_NE(refused.message().find("'vision' holds nan at step 1, feature 1 of this push"), std::string::npos)
      << refused.message();
  Steps absent = steps(3);
  absent.text.reset();
  EXPECT_NE(stream->push(absent).status().message().find("text is missing; push it"), std::string::npos);
  EXPECT_EQ(stream->push(Steps()).code(), StatusCode::kInvalidInput);
  Steps none = steps(3);
  none.count = 0;
  EXPECT_EQ(stream->push(none).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(stream->heard(), 3U);
  EXPECT_EQ(stream->push(steps(3))->score[0], expected(3, 4));
}

TEST_F(StreamTest, AModalityThatMayBeAbsentCountsAsZeros) {
  StreamOptions with;
  with.missing[1] = "absent";
  auto stream = open_stream(with);
  Steps without = steps(0, 3);
  without.audio.reset();
  const auto answer = stream->push(without);
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  EXPECT_EQ(answer->score[0], 6.0F * (4 + 3));
  EXPECT_EQ(answer->filled[0], Filling::kNone);
  EXPECT_EQ(answer->filled[1], Filling::kAbsent);
}

TEST_F(StreamTest, AHeldModalityRepeatsItsLastRow) {
  StreamOptions with;
  with.missing = {"hold", "hold", "hold"};
  auto stream = open_stream(with);
  Steps without = steps(0);
  without.vision.reset();
  EXPECT_NE(stream->push(without).status().message().find("no earlier step of it to hold"), std::string::npos);
  ASSERT_TRUE(stream->push(steps(0)).ok());
  without = steps(1, 2);
  without.vision.reset();
  const auto answer = stream->push(without);
  EXPECT_EQ(answer->score[0], 6.0F * (4 + 2) + 3.0F * 3);
  EXPECT_EQ(answer->filled[2], Filling::kHold);
}

TEST_F(StreamTest, StepsMissingInTimeAreFilledAndOneOutOfOrderIsRefusedWithBothTimes) {
  StreamOptions with;
  with.missing = {"hold", "hold", "hold"};
  with.step_s = 0.1;
  auto stream = open_stream(with);
  const auto push = [&](std::size_t step, double text_s, double others_s) {
    Steps timed = steps(step);
    timed.time_s = {text_s, others_s, others_s};
    return stream->push(timed);
  };
  ASSERT_TRUE(push(0, 0.0, 0.0).ok());
  const auto late = push(3, 0.31, 0.31);  // two are missing before it
  ASSERT_TRUE(late.ok()) << late.status().message();
  EXPECT_EQ(late->heard, 4U);
  ASSERT_EQ(late->count, 2U);
  EXPECT_EQ(late->score[0], 3.0F * kWidths);
  EXPECT_EQ(late->score[1], (3.0F + 1 + 1 + 4) * kWidths);
  const Status refused = push(4, 0.2, 0.41).status();
  EXPECT_NE(refused.message().find("text is out of order: 0.200000 s came after 0.310000 s"), std::string::npos)
      << refused.message();
  EXPECT_EQ(push(4, 0.5, 0.41)->filled[0], Filling::kHold);
}

TEST_F(StreamTest, AnAnswerThatIsNoNumberIsAFailureAndLeavesTheStepsOut) {
  step_text += " nan";
  write_stream();
  auto stream = open_stream();
  ASSERT_TRUE(stream->push(steps(0, 2)).ok());
  EXPECT_EQ(stream->push(steps(2)).code(), StatusCode::kBackendFailed);
  EXPECT_EQ(stream->heard(), 2U);
}

TEST_F(StreamTest, ABundleWithoutAStepGraphSaysHowToExportOne) {
  manifest.erase("stream");
  write();
  const Status status = open_stream().status();
  EXPECT_EQ(status.code(), StatusCode::kGraphUnavailable);
  EXPECT_NE(status.message().find("dmdkit export --stream"), std::string::npos);
  EXPECT_TRUE(open_status().ok());
}

TEST_F(StreamTest, AManifestWhoseStreamCannotBeIsRefused) {
  const nlohmann::json whole = manifest;
  const auto state = [](const nlohmann::json& heads, const nlohmann::json& width = 1) {
    return state_record("keys_1", heads, width);
  };
  const nlohmann::json other = step_record("int8-cpu");
  nlohmann::json fusion = whole["graphs"]["fusion.fp32"];
  nlohmann::json stray = whole["stream"]["graphs"]["fp32"];
  stray["file"] = "graphs/elsewhere.onnx";
  for (const auto& [at, value, cause] : std::vector<std::tuple<const char*, nlohmann::json, const char*>>{
           {"/stream", 7, "stream: expected an object"},
           {"/stream/kernel", 0, "stream.kernel"},
           {"/stream/kernel", 2, "kernel 2 and capacity 5 are not those of 7 steps"},
           {"/stream/capacity", 1 << 30, "are not those of 7 steps"},
           {"/stream/capacity", -1, "stream.capacity"},
           {"/stream/state", nlohmann::json::array(), "expected a list of 1 to 56 tensors"},
           {"/stream/state", std::vector<nlohmann::json>(57, state(1)), "expected a list of 1 to 56 tensors"},
           {"/stream/state", nlohmann::json::array({state(1), state(1)}), "'keys_1' is there twice"},
           {"/stream/state", nlohmann::json::array({state(1 << 30)}), "more than 268435456 values"},
           {"/stream/state", nlohmann::json::array({state(0x7FFFFFFF, 0x7FFFFFFF)}), "more than 268435456 values"},
           {"/stream/state", nlohmann::json::array({state(0)}), "heads"},
           {"/stream/state", nlohmann::json::array({state(1, "4")}), "width"},
           {"/stream/graphs", nlohmann::json::array(), "stream.graphs: expected an object"},
           {"/stream/graphs/fp32", other, "describes stream.int8-cpu"},
           {"/stream/graphs/fp32", fusion, "describes fusion.fp32"},
           {"/stream/graphs/fp32", stray, "'graphs/elsewhere.onnx' is not listed under files"},
           {"/graphs/stream.fp32", stray, "a step graph stands under stream"}}) {
    manifest = whole;
    manifest[nlohmann::json::json_pointer(at)] = value;
    write_manifest_text(manifest.dump());
    const Status status = open_status();
    EXPECT_EQ(status.code(), StatusCode::kBundleDamaged) << at << " " << cause;
    EXPECT_NE(status.message().find(cause), std::string::npos) << status.message();
  }
  manifest = whole;
  manifest["stream"] = nullptr;
  write_manifest_text(manifest.dump());
  EXPECT_TRUE(open_status().ok());
}

TEST_F(StreamTest, OptionsThatCannotBeAreRefused) {
  const auto refusal = [&](const auto& change) {
    StreamOptions with;
    change(with);
    return open_stream(with).status().message();
  };
  EXPECT_NE(refusal([](auto& with) { with.past_limit = "loop"; }).find("expected stop or window"), std::string::npos);
  EXPECT_NE(refusal([](auto& with) { with.missing[2] = "skip"; }).find("expected error, hold or absent"), std::string::npos);
  EXPECT_NE(refusal([](auto& with) { with.missing[0] = "absent"; }).find("text may not be absent"), std::string::npos);
  EXPECT_NE(refusal([](auto& with) { with.step_s = 0.0; }).find("seconds between steps"), std::string::npos);
  EXPECT_NE(refusal([](auto& with) { with.tolerance_s = 0.1; }).find("beside step_s"), std::string::npos);
}

TEST_F(StreamTest, AStepGraphThatDidNotPassIsOpenedOnlyWhereAGraphWasAskedFor) {
  manifest["stream"]["graphs"]["fp32"]["verdict"]["status"] = "unverified";
  write_stream();
  EXPECT_NE(open_stream().status().message().find("(stream.fp32 unverified)"), std::string::npos);
  Options named = options();
  named.graph = "fp32";
  auto runtime = Runtime::open(folder, named);
  EXPECT_TRUE(runtime->stream().ok());
}

TEST_F(StreamTest, AModelTrainedPaddedIsSaidToBe) {
  EXPECT_NE(open_stream()->note().find("trained on padded windows"), std::string::npos);
}

TEST_F(StreamTest, AStepGraphOfOtherSizesThanTheManifestSaysIsRefused) {
  const std::string whole = step_text;
  for (const auto& [from, to] : {std::pair{"keys_1:=2x2x5", "keys_1:=2x2x6"},
                                 {"new_keys_1=2x2xm", "new_keys_1=2x2"},
                                 {"steps:=1", "steps:=2"},
                                 {"recent_text:=2x4", "recent_text:=3x4"},
                                 {"text=4 ", "text=5 "},
                                 {"values_1:=2x2x5", "values_1:=2x2x5 more:=1"},
                                 {"score=1", "score=2"}}) {
    step_text = whole;
    step_text.replace(step_text.find(from), std::string(from).size(), to);
    write_stream();
    EXPECT_EQ(open_stream().code(), StatusCode::kBundleDamaged) << to;
  }
}

TEST_F(StreamTest, StreamsOfOneRuntimeRunAtOnceAndOutliveIt) {
  auto runtime = Runtime::open(folder, options());
  auto first = runtime->stream(going_on());
  auto second = runtime->stream();
  ASSERT_TRUE(first.ok() && second.ok());
  std::atomic<int> good{0};
  const auto work = [&](Stream& stream, float value) {
    const std::vector<float> t(4, value), a(2, value), v(3, value);
    for (int round = 0; round < 50; ++round) {
      for (std::size_t step = 0; step < kWindow; ++step) {
        const auto answer = stream.push({t, a, v});
        if (!answer) return;
        if (step + 1 == kWindow && answer->score[0] == value * 3 * kWidths * kCapacity) ++good;
      }
      if (!stream.reset().ok()) return;
    }
  };
  std::thread one(work, std::ref(*first), 1.0F), two(work, std::ref(*second), -2.0F), three([&] {
    for (int i = 0; i < 20; ++i) good += runtime->stream().ok() ? 0 : -100;
  });
  one.join(), two.join(), three.join();
  EXPECT_EQ(good, 100);
  { const Runtime gone = std::move(runtime).value(); }
  ASSERT_TRUE(first->reset().ok());
  EXPECT_TRUE(first->push(steps(0)).ok());
}

TEST_F(StreamTest, OneStreamMayBeSharedThroughCopies) {
  auto stream = open_stream(going_on());
  std::atomic<int> good{0};
  const auto work = [&] {
    const std::vector<float> t(4, 1.0F), a(2, 1.0F), v(3, 1.0F);
    std::vector<float> score(1), logits(3), edges(6);
    for (int i = 0; i < 200; ++i) {
      const auto answer = stream->push_into({t, a, v}, {score, logits, edges});
      if (answer && (answer->count == 0 || score[0] == logits[0])) ++good;
    }
  };
  std::thread one(work), two(work);
  one.join(), two.join();
  EXPECT_EQ(good, 400);
  EXPECT_EQ(stream->heard(), 400U);
}

TEST_F(StreamTest, ABufferWithoutRoomIsRefusedBeforeAnythingIsTaken) {
  auto stream = open_stream();
  std::vector<float> one(1);
  StepBuffers buffers;
  buffers.score = one;
  const auto refused = stream->push_into(steps(0, 2), buffers);
  EXPECT_NE(refused.status().message().find("buffer 'score' has room for 1 values, expected 2 or more for 2 steps"),
            std::string::npos);
  EXPECT_EQ(stream->heard(), 0U);
  ASSERT_TRUE(stream->push_into(steps(0), buffers).ok());
}

TEST_F(StreamTest, OneThatWasMovedFromAnswersSo) {
  auto stream = open_stream();
  Stream other = std::move(stream).value();
  EXPECT_EQ(stream->push(steps(0)).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(stream->reset().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(stream->limit() + stream->unanswered() + stream->heard(), 0U);
  EXPECT_EQ(stream->graph(), "");
  EXPECT_TRUE(other.push(steps(0)).ok());
}

}  // namespace
}  // namespace dmdkit
