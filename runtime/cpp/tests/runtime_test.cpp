#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <thread>
#include <utility>

#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

class RuntimeTest : public BundleTest {
 protected:
  Runtime open(const Options& with) {
    auto runtime = Runtime::open(folder, with);
    EXPECT_TRUE(runtime.ok()) << runtime.status().message();
    return std::move(runtime).value();
  }
};

TEST_F(RuntimeTest, SaysWhatAScoreMeans) {
  auto opened = Runtime::open(folder, options());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->task().name, "regression");
  EXPECT_EQ(opened->task().low, -3.0);
  EXPECT_EQ(opened->task().high, 3.0);
  EXPECT_TRUE(opened->task().labels.empty());
  manifest["task"] = "classification";
  manifest["label_range"] = nullptr;
  manifest["outputs"]["score"]["order"] = {"calm"};
  write();
  opened = Runtime::open(folder, options());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->task().name, "classification");
  EXPECT_EQ(opened->task().labels, std::vector<std::string>{"calm"});
  const Runtime taken = std::move(*opened);
  EXPECT_EQ(opened->task().name, "") << "moved from";
}

TEST_F(RuntimeTest, PredictsAndDescribesItself) {
  Runtime runtime = open(options());
  EXPECT_EQ(runtime.backend(), "fake 1");
  EXPECT_EQ(runtime.name(), "fake");
  EXPECT_EQ(runtime.outputs(), 1U);
  EXPECT_EQ(runtime.inputs()[2].name, "vision");
  const auto prediction = runtime.predict(inputs());
  ASSERT_TRUE(prediction.ok());
  EXPECT_NEAR(prediction->score[0], 0.3, 1e-6);
  EXPECT_EQ(prediction->score.size(), 1U);
}

TEST_F(RuntimeTest, TakesBatchesOfChangingSize) {
  Runtime runtime = open(options());
  for (const std::size_t batch : {1U, 5U, 2U, 64U, 1U}) {
    const auto prediction = runtime.predict(inputs(batch));
    ASSERT_TRUE(prediction.ok());
    ASSERT_EQ(prediction->score.size(), batch);
    for (const float score : prediction->score) EXPECT_NEAR(score, 0.3, 1e-6);
  }
}

TEST_F(RuntimeTest, ExplainsWithTheSamePrecision) {
  Runtime runtime = open(options());
  const auto why = runtime.explain(inputs(2));
  ASSERT_TRUE(why.ok()) << why.status().message();
  EXPECT_EQ(why->logit_homo.size(), 6U);
  EXPECT_EQ(why->edges_hetero.size(), 12U);
  EXPECT_NEAR(why->edges_hetero[5], 5.3, 1e-6);
}

TEST_F(RuntimeTest, ExplainsOnlyWithAGraphThatPassedUnlessOneIsNamed) {
  const auto explaining = [&](const Options& given) {
    Runtime runtime = open(given);
    return runtime.self_check()->graphs.back().graph;
  };
  Options automatic = options();
  automatic.graph.clear();
  for (const char* verdict : {"failed", "unverified"}) {
    manifest["graphs"]["explain.int8-cpu"]["verdict"]["status"] = verdict;
    write();
    EXPECT_EQ(explaining(automatic), "explain.fp32") << verdict;
  }
  Options named = options();
  named.graph = "int8-cpu";
  EXPECT_EQ(explaining(named), "explain.int8-cpu");
  manifest["graphs"]["explain.fp32"]["verdict"]["status"] = "failed";
  write();
  Runtime runtime = open(automatic);
  EXPECT_TRUE(runtime.predict(inputs()).ok());
  EXPECT_EQ(runtime.explain(inputs()).status().code(), StatusCode::kGraphUnavailable);
  EXPECT_EQ(runtime.self_check()->graphs.size(), 1U) << "nothing explains, so there is nothing more to check";
}

TEST_F(RuntimeTest, ExplainsWithoutEdgesWhereTheBundleHasNone) {
  explain_text = "fake score=1 logit_homo=3x1 logit_hetero=3x1 | text=3x4 audio=3x2 vision=3x3";
  write();
  Runtime runtime = open(options());
  const auto why = runtime.explain(inputs());
  ASSERT_TRUE(why.ok());
  EXPECT_TRUE(why->edges_homo.empty());
}

TEST_F(RuntimeTest, CopiesIntoTheCallersBuffers) {
  Runtime runtime = open(options());
  std::vector<float> score(1), edges(6), wrong(5);
  ASSERT_TRUE(runtime.predict_into(inputs(), score).ok());
  EXPECT_NEAR(score[0], 0.3, 1e-6);
  ExplanationBuffers buffers;
  buffers.edges_homo = edges;
  ASSERT_TRUE(runtime.explain_into(inputs(), buffers).ok());
  EXPECT_NEAR(edges[1], 1.3, 1e-6);
  buffers.edges_homo = wrong;
  EXPECT_EQ(runtime.explain_into(inputs(), buffers).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(runtime.predict_into(inputs(), wrong).code(), StatusCode::kInvalidInput);
}

TEST_F(RuntimeTest, ChecksItself) {
  Runtime runtime = open(options());
  const auto check = runtime.self_check();
  ASSERT_TRUE(check.ok()) << check.status().message();
  EXPECT_TRUE(check->passed);
  EXPECT_EQ(check->samples, 2U);
  EXPECT_EQ(runtime.self_check(true)->graphs.size(), 4U);
}

TEST_F(RuntimeTest, SaysWhenItAnswersOtherwiseThanWhenExported) {
  golden["recorded/fusion.int8-cpu/score"].values[1] = 0.2F;
  write();
  const auto check = open(options()).self_check();
  ASSERT_TRUE(check.ok());
  EXPECT_FALSE(check->passed);
  EXPECT_NEAR(check->graphs[0].max_error, 0.2, 1e-6);
}

TEST_F(RuntimeTest, CountsDeadlineMisses) {
  fusion_text += " throttle_us=2000";
  write();
  Options with = options();
  with.deadline_us = 1000;
  Runtime runtime = open(with);
  const auto prediction = runtime.predict(inputs());
  ASSERT_TRUE(prediction.ok());
  EXPECT_TRUE(prediction->deadline_missed);
  EXPECT_EQ(runtime.stats().deadline_misses, 1U);
  EXPECT_GE(runtime.stats().p50_ms, 2.0);
  runtime.reset_stats();
  EXPECT_EQ(runtime.stats().count, 0U);
}

TEST_F(RuntimeTest, ADeadlineThatOverflowsInNanosecondsIsNeverMissed) {
  Options with = options();
  with.deadline_us = UINT64_MAX / 1000 + 1;  // times 1000: 384 ns
  Runtime runtime = open(with);
  ASSERT_TRUE(runtime.predict(inputs()).ok());
  EXPECT_EQ(runtime.stats().deadline_misses, 0U);
}

TEST_F(RuntimeTest, TheCallbackMayAskForStatsAndNothingElse) {
  Options with = options();
  Runtime* self = nullptr;
  StatusCode predicted = StatusCode::kOk;
  StatusCode explained = StatusCode::kOk;
  StatusCode checked = StatusCode::kOk;
  std::uint64_t out_of_range = 0;
  with.on_out_of_range = [&](View<const RangeAlarm>) {
    predicted = self->predict(inputs()).code();
    explained = self->explain(inputs()).code();
    checked = self->self_check().code();
    out_of_range = self->stats().out_of_range;
  };
  Runtime runtime = open(with);
  self = &runtime;
  inputs();
  std::fill(audio.begin(), audio.end(), 100.0F);
  ASSERT_TRUE(runtime.predict({text, audio, vision}).ok());
  for (const StatusCode code : {predicted, explained, checked}) EXPECT_EQ(code, StatusCode::kInvalidInput);
  EXPECT_EQ(out_of_range, 1U);
  EXPECT_TRUE(runtime.explain(Inputs{text, audio, vision}).ok()) << "the callback's end is noticed";
}

TEST_F(RuntimeTest, GoesOnAfterTheProcessChangesItsDirectory) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(std::filesystem::path(folder).parent_path());
  auto runtime = Runtime::open(std::filesystem::path(folder).filename().string(), options());
  std::filesystem::current_path("/");  // as a daemon does
  EXPECT_TRUE(runtime.ok());
  EXPECT_TRUE(runtime->explain(inputs()).ok());
  EXPECT_TRUE(runtime->self_check().ok());
  std::filesystem::current_path(before);
}

TEST_F(RuntimeTest, AMovedFromRuntimeAnswersWithAStatus) {
  Runtime first = open(options());
  Runtime second = std::move(first);
  EXPECT_TRUE(second.predict(inputs()).ok());
  EXPECT_EQ(first.predict(inputs()).code(), StatusCode::kInvalidInput);  // NOLINT: that is the test
  EXPECT_EQ(first.outputs(), 0U);
  EXPECT_FALSE(first.has_edges());
  for (const std::string& text : {first.graph(), first.backend(), first.name(), first.inputs()[0].name,
                                  first.modality_order()[0], first.edge_order()[0]}) {
    EXPECT_EQ(text, "");
  }
  first.reset_stats();
  EXPECT_EQ(first.stats().count, 0U);
}

TEST_F(RuntimeTest, RefusesOptionsThatCannotBe) {
  Options with = options();
  with.threads = 0;
  EXPECT_EQ(open_status(with).message(), "threads=0: expected 1 or more");
  with.threads = 1 << 30;
  EXPECT_EQ(open_status(with).message(), "threads=1073741824: expected at most 1024");
  with = options();
  with.device = "tpu";
  EXPECT_EQ(open_status(with).message(), "device='tpu': expected auto, cpu or cuda");
}

TEST_F(RuntimeTest, WhatIsNotFiniteIsNoAnswer) {
  for (std::string* text : {&fusion_text, &explain_text}) {
    const std::string healthy = *text;
    *text += " nan";
    write();
    Runtime runtime = open(options());
    const auto failed = text == &fusion_text ? Status(runtime.predict(inputs()).status()) : runtime.explain(inputs()).status();
    EXPECT_EQ(failed.code(), StatusCode::kBackendFailed);
    EXPECT_NE(failed.message().find("score is not finite for inputs that are"), std::string::npos) << failed.message();
    EXPECT_EQ(runtime.stats().count, 0U);
    *text = healthy;
  }
}

TEST_F(RuntimeTest, BackendFailuresAreStatuses) {
  for (const auto& [word, code] : {std::pair{" fail_run", StatusCode::kBackendFailed},
                                   {" fail_bind", StatusCode::kOutOfMemory},
                                   {" no_device", StatusCode::kBackendUnavailable}}) {
    const std::string healthy = fusion_text;
    fusion_text += word;
    write();
    auto runtime = Runtime::open(folder, options());
    EXPECT_EQ(runtime ? runtime->predict(inputs()).code() : runtime.code(), code) << word;
    fusion_text = healthy;
  }
  fusion_text = "not a graph";
  write();
  EXPECT_EQ(open_status().code(), StatusCode::kBackendFailed);
}

}  // namespace
}  // namespace dmdkit
