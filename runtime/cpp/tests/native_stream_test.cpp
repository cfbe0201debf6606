// Streams of the public interface on the native kernels: the plug-in loaded, its states, snapshots and what it refuses.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "counting_new.hpp"
#include "native_model.hpp"
#include "stream_fixture.hpp"

namespace dmdkit {
namespace {

class NativeStreamTest : public StreamTest {
 protected:
  void SetUp() override {
    StreamTest::SetUp();
    fusion_text = dmdkit_native::model_bytes(model);
    step_text = dmdkit_native::step_model_bytes(model);
    auto& state = manifest["stream"]["state"] = nlohmann::json::array();
    for (const char* name : {"keys_1", "values_1"}) state.push_back(state_record(name, 18, 4));
    for (const char* level : {"1", "2", "3"}) {
      for (const char* name : {"memory_keys_", "memory_values_"})
        state.push_back(state_record(std::string(name) + level, 6, 8));
    }
    write_stream();
  }

  Options on_kernels() const {
    Options with;
    with.backend = "native";
    with.backend_directory = DMDKIT_NATIVE_DIRECTORY;
    with.graph = "fp32";
    return with;
  }

  Result<Stream> opened(StreamOptions with = {}) const {
    auto runtime = Runtime::open(folder, on_kernels());
    return runtime ? runtime->stream(with) : Result<Stream>(runtime.status());
  }

  // As the fixture's widths and lengths, in the kernels' order: text, vision, audio.
  const dmdkit_native::ModelSizes model{8, 2, 1, 1, {7, 7, 7}, {4, 3, 2}, {3, 3, 3}, {true, false, false}, false, false};
};

TEST_F(NativeStreamTest, TheKernelsKeepTheStateAndTheLastAnswerIsTheWindows) {
  auto runtime = Runtime::open(folder, on_kernels());
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  auto stream = runtime->stream();
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  EXPECT_EQ(stream->backend().rfind("native 1", 0), 0U) << stream->note();
  float last = 0.0F;
  for (std::size_t step = 0; step < kWindow; ++step) {
    auto answer = stream->push(steps(step));
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_EQ(answer->count, step < kKernel - 1 ? 0U : 1U);
    if (answer->count == 1) {
      last = answer->score[0];
      EXPECT_EQ(answer->edges_hetero.size(), kEdges);
    }
  }
  const Steps all = steps(0, kWindow);
  Inputs window;
  window.text = all.text, window.audio = all.audio, window.vision = all.vision;
  auto whole = runtime->predict(window);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  EXPECT_NEAR(whole->score[0], last, 1e-5F);
  EXPECT_EQ(stream->push(steps(7)).status().code(), StatusCode::kInvalidInput);
}

TEST_F(NativeStreamTest, APushAllocatesNothingNorDoesAReset) {
  auto stream = opened(going_on());
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  const Steps one = steps(0);
  const auto push = [&] { ASSERT_TRUE(stream->push(one).ok()); };
  EXPECT_EQ(dmdkit_test::allocations_of(40, push), 0);  // past the window many times
  EXPECT_EQ(dmdkit_test::allocations_of(1, [&] { ASSERT_TRUE(stream->reset().ok()); }), 0);
  const Steps several = steps(0, 4);
  const auto many = [&] { ASSERT_TRUE(stream->push(several).ok()); };
  for (int i = 0; i < 8; ++i) many();
  EXPECT_EQ(dmdkit_test::allocations_of(1, many), 0);
}

TEST_F(NativeStreamTest, ASnapshotGoesOnElsewhereWithTheSameAnswers) {
  auto first = opened(going_on()), second = opened(going_on());
  ASSERT_TRUE(first.ok() && second.ok());
  for (std::size_t step = 0; step < 12; ++step) {
    auto bytes = first->snapshot();
    ASSERT_TRUE(bytes.ok());
    ASSERT_TRUE(second->restore({bytes->data(), bytes->size()}).ok());
    auto again = second->snapshot();
    EXPECT_EQ(*bytes, *again);
    auto one = first->push(steps(step)), other = second->push(steps(step));
    ASSERT_TRUE(one.ok() && other.ok());
    ASSERT_EQ(one->count, other->count);
    if (one->count == 1) {
      EXPECT_EQ(one->score[0], other->score[0]);
    }
  }
}

TEST_F(NativeStreamTest, StreamsOverOneRuntimeRunSideBySide) {
  auto runtime = Runtime::open(folder, on_kernels());
  ASSERT_TRUE(runtime.ok());
  const Steps all = steps(0, kWindow);
  const float expected = runtime->stream()->push(all)->score[kCapacity - 1];
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        auto stream = runtime->stream();
        auto answer = stream->push(all);
        wrong += !answer.ok() || answer->score[kCapacity - 1] != expected;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(NativeStreamTest, AnAnswerThatIsNotFiniteIsAnErrorAndLosesNothing) {
  auto stream = opened();
  ASSERT_TRUE(stream.ok());
  for (std::size_t step = 0; step < 3; ++step) ASSERT_TRUE(stream->push(steps(step)).ok());
  const auto before = *stream->snapshot();
  const Steps huge = steps(3, kKernel);  // sums of a whole kernel of them are infinite
  text.assign(text.size(), 3e38F);
  EXPECT_EQ(stream->push(huge).status().code(), StatusCode::kBackendFailed);
  EXPECT_EQ(*stream->snapshot(), before);
  EXPECT_TRUE(stream->push(steps(3)).ok());
}

TEST_F(NativeStreamTest, ABundleWithoutAPlanOfStepsGoesOnInOnnxRuntimeOrSaysWhyNot) {
  step_text = "no plan";
  write_stream();
  // There is no ONNX Runtime beside these tests, so what is tried after the kernels fails, too.
  EXPECT_FALSE(opened().ok());
}

TEST_F(NativeStreamTest, AStateOtherThanTheManifestSaysIsRefused) {
  manifest["stream"]["state"][0]["heads"] = 9;
  write_stream();
  EXPECT_FALSE(opened().ok());
}

}  // namespace
}  // namespace dmdkit
