// Engines against a stand-in for CUDA and TensorRT; nothing here ran on a GPU.
#include "../backends/tensorrt/engine_session.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "fake_gpu.hpp"

namespace dmdkit_tensorrt {
namespace {

constexpr char kPlan[] = "plan batch=4 score=2 | text=3x4 audio=3x2";

class EngineSessionTest : public ::testing::Test {
 protected:
  dmdkit_backend_engine given(const std::string& plan = kPlan) {
    plan_ = plan;
    dmdkit_backend_engine engine{};
    engine.name = "rtx-ada.fusion.fp16";
    engine.flavour = "tensorrt_rtx";
    engine.version = "1.7.1.116";
    engine.compute_capabilities = capabilities_;
    engine.compute_capability_count = 2;
    engine.plan = plan_.data();
    engine.plan_bytes = plan_.size();
    return engine;
  }

  std::unique_ptr<EngineSession> open(const std::string& plan = kPlan) {
    return std::make_unique<EngineSession>(Platform{device, library}, given(plan), "fusion.fp16");
  }

  std::string refusal(const dmdkit_backend_engine& engine) {
    try {
      EngineSession session(Platform{device, library}, engine, "fusion.fp16");
      return "";
    } catch (const Problem& problem) {
      code = problem.code();
      return problem.what();
    }
  }

  // Scores of `batch` samples whose inputs are all `first`, first + 1, ...
  void expect_answers(EngineSession& session, std::size_t batch, float first) {
    std::vector<float> text(batch * 12);
    std::vector<float> audio(batch * 6);
    std::vector<float> score(batch * 2);
    float* const inputs[] = {text.data(), audio.data()};
    float* const outputs[] = {score.data()};
    session.bind(batch, inputs, outputs);
    for (int round = 0; round < 3; ++round) {
      for (std::size_t sample = 0; sample < batch; ++sample) {
        const float value = first + static_cast<float>(sample) + static_cast<float>(round) * 10;
        std::fill_n(text.begin() + static_cast<std::ptrdiff_t>(sample * 12), 12, value);
        std::fill_n(audio.begin() + static_cast<std::ptrdiff_t>(sample * 6), 6, value);
      }
      session.run();
      for (std::size_t sample = 0; sample < batch; ++sample) {
        const float value = first + static_cast<float>(sample) + static_cast<float>(round) * 10;
        EXPECT_FLOAT_EQ(score[2 * sample], value) << batch << " " << round;
        EXPECT_FLOAT_EQ(score[2 * sample + 1], value + 1);
      }
    }
  }

  FakeDevice device;
  FakeLibrary library{device};
  int code = 0;

 private:
  const char* capabilities_[2] = {"8.6", "8.9"};
  std::string plan_;
};

TEST_F(EngineSessionTest, EveryBatchGivesTheEnginesAnswersFromMemoryAllocatedOnce) {
  const auto session = open();
  const int allocated = device.allocations_left;
  for (const std::size_t batch : {1, 1, 3, 4, 1, 11}) expect_answers(*session, batch, 0.5F);  // 11 run in parts
  EXPECT_EQ(device.allocations_left, allocated);
  EXPECT_EQ(device.memory.size(), 6U) << "pinned and device memory of three tensors";
}

TEST_F(EngineSessionTest, ABatchIsCapturedWhenItIsBoundAndThenOnlyLaunched) {
  const auto session = open();
  std::vector<float> text(12), audio(6), score(2);
  float* const inputs[] = {text.data(), audio.data()};
  float* const outputs[] = {score.data()};
  session->bind(1, inputs, outputs);
  EXPECT_EQ(session->note(), "CUDA graph");
  const int copies = device.copies;
  for (int i = 0; i < 5; ++i) session->run();
  EXPECT_EQ(device.launches, 5);
  EXPECT_EQ(device.copies, copies) << "the graph holds the copies";
  session->bind(2, inputs, outputs);
  EXPECT_EQ(device.live_graphs, 1) << "the old graph is given back";
}

TEST_F(EngineSessionTest, WithoutCaptureItRunsPlainlyAndSaysWhy) {
  device.capture_fails = true;
  const auto session = open();
  expect_answers(*session, 2, 1.0F);
  EXPECT_EQ(session->note(), "plain: no CUDA graph, cudaStreamEndCapture failed: CUDA error 900");
  EXPECT_EQ(device.launches, 0);
}

TEST_F(EngineSessionTest, ABatchAboveTheLargestRunsInPartsAndSaysSo) {
  const auto session = open();
  expect_answers(*session, 9, -3.0F);
  EXPECT_EQ(session->note(), "plain: a batch above 4 runs in parts");
}

TEST_F(EngineSessionTest, SharedMemoryIsMappedAndNotCopied) {
  device.here.integrated = true;
  const auto session = open();
  expect_answers(*session, 4, 0.0F);
  EXPECT_EQ(device.copies, 0);
  EXPECT_EQ(device.memory.size(), 3U);
}

TEST_F(EngineSessionTest, EverythingIsGivenBack) {
  {
    const auto session = open();
    expect_answers(*session, 1, 0.0F);
  }
  EXPECT_TRUE(device.memory.empty());
  EXPECT_EQ(device.live_graphs, 0);
  EXPECT_EQ(device.live_streams, 0);
}

TEST_F(EngineSessionTest, RunningOutOfMemoryAtAnyPlaceGivesEverythingBack) {
  for (int allowed = 0; allowed < 6; ++allowed) {
    device.allocations_left = allowed;
    EXPECT_EQ(refusal(given()), "cudaMalloc failed: CUDA error 2") << allowed;
    EXPECT_EQ(code, DMDKIT_BACKEND_NO_MEMORY);
    EXPECT_TRUE(device.memory.empty());
    EXPECT_EQ(device.live_streams, 0);
  }
}

TEST_F(EngineSessionTest, NothingIsDeserialisedUnlessLibraryAndGpuFit) {
  device.no_driver = true;
  EXPECT_EQ(refusal(given()), "no NVIDIA driver or GPU: none is listed");
  EXPECT_EQ(code, DMDKIT_BACKEND_NO_DEVICE);
  device.no_driver = false;
  device.here.capability = "9.0";
  EXPECT_EQ(refusal(given()),
            "engine rtx-ada.fusion.fp16 is compiled for compute capability 8.6, 8.9, Test GPU has 9.0; build it for this GPU");
  device.here.capability = "8.9";
  library.here = "1.7.2.3";
  EXPECT_EQ(refusal(given()),
            "engine rtx-ada.fusion.fp16 was built by tensorrt_rtx 1.7.1.116, here is 1.7.2.3; build it again");
  library.here = "1.7.1.116";
  library.kind = "tensorrt";
  EXPECT_EQ(refusal(given()), "engine rtx-ada.fusion.fp16 needs tensorrt_rtx 1.7.1.116, this backend was built for tensorrt");
  dmdkit_backend_engine own = given();
  own.flavour = "tensorrt";
  own.gpu = "Another GPU";
  EXPECT_EQ(refusal(own), "engine rtx-ada.fusion.fp16 was built on Another GPU, this is Test GPU; build it here");
  EXPECT_EQ(library.opened, 0);
  own.gpu = "Test GPU";
  EXPECT_EQ(refusal(own), "");
  EXPECT_EQ(library.opened, 1);
}

TEST_F(EngineSessionTest, PlansThatAreNoneOrOfAnotherKindAreRefused) {
  EXPECT_EQ(refusal(given("not a plan")), "the library cannot open the engine");
  EXPECT_EQ(refusal(given("plan double score=1 | text=3x4")),
            "fusion.fp16: score is not float32 in GPU memory; build the engine again");
  EXPECT_EQ(refusal(given("plan score=1")), "fusion.fp16: an engine of another kind; build it again");
  EXPECT_EQ(refusal(given("plan | text=3x4")), "fusion.fp16: an engine of another kind; build it again");
  EXPECT_EQ(refusal(given("plan score=1 | text=3x-1")), "fusion.fp16: text has no fixed sizes; build the engine again");
  EXPECT_EQ(refusal(given("plan score=1 | text=99999999x99999999999")),
            "fusion.fp16: text has no fixed sizes; build the engine again");
  EXPECT_EQ(refusal(given("plan batch=2000000000 score=1 | text=3x4")), "fusion.fp16: text is too large; build it again");
  EXPECT_TRUE(device.memory.empty());
}

TEST_F(EngineSessionTest, AnEngineThatRefusesToRunIsAProblem) {
  const auto session = open("plan refuse score=1 | text=3x4");
  std::vector<float> text(12), score(1);
  float* const inputs[] = {text.data()};
  float* const outputs[] = {score.data()};
  EXPECT_THROW(session->bind(1, inputs, outputs), Problem);
}

TEST(SameVersionTest, ComparesTheNumbersBothHave) {
  EXPECT_TRUE(same_version("10.3.0", "10.3.0.26"));
  EXPECT_TRUE(same_version("10.13.3.9.post1", "10.13.3.9"));
  EXPECT_FALSE(same_version("10.3.0.25", "10.3.0.26"));
  EXPECT_FALSE(same_version("10.3", "10.3.0.26"));
  EXPECT_FALSE(same_version("", "10.3.0.26"));
  EXPECT_FALSE(same_version("x", "x"));
}

}  // namespace
}  // namespace dmdkit_tensorrt
