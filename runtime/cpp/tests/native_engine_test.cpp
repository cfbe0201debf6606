// The native backend as the core calls it, on random models: instruction sets agree, sessions share weights, calls allocate
// nothing, and what does not fit is refused.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "../backends/native/engine.hpp"
#include "../backends/native/instruction_sets.hpp"
#include "../backends/plugin.hpp"
#include "counting_new.hpp"
#include "dmdkit/backend.h"
#include "native_model.hpp"

extern "C" const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t version);

namespace dmdkit_native {
namespace {

std::vector<float> answer(const std::string& file, const Kernels& kernels, const std::vector<std::vector<float>>& features) {
  Engine engine(std::make_shared<const Weights>(read_onnx(file.data(), file.size()), kernels));
  std::vector<float> score(engine.weights().plan.outputs);
  engine.run({features[0].data(), features[1].data(), features[2].data()}, score.data());
  return score;
}

// Lanes of equal and unequal lengths, one step, head widths held in registers and not, several classes.
std::vector<ModelSizes> many_sizes() {
  std::vector<ModelSizes> found(7);
  found[1].steps[kText] = 21;
  found[1].steps[kAudio] = 50;
  found[2] = {14, 1, 3, 1, {3, 4, 5}, {7, 1, 2}, {3, 4, 5}, {false, false, false}, false, false};
  found[3] = {34, 2, 2, 3, {40, 12, 33}, {70, 3, 9}, {1, 2, 5}, {true, false, true}, true, false};
  found[4] = {5, 5, 1, 1, {17, 18, 19}, {6, 6, 6}, {1, 1, 1}, {true, true, true}, false, false};
  found[5] = {50, 10, 1, 1, {50, 50, 50}, {768, 20, 5}, {5, 5, 5}, {true, false, false}, false, false};
  found[6] = {6, 3, 1, 2, {1, 2, 3}, {2, 2, 2}, {1, 1, 1}, {false, true, false}, true, false};
  return found;
}

TEST(NativeEngineTest, InstructionSetsGiveTheSameAnswers) {
  for (ModelSizes sizes : many_sizes()) {
    const auto features = features_for(sizes);
    for (const bool int8 : {false, true}) {
      sizes.int8 = int8;
      const std::string file = model_bytes(sizes);
      std::vector<float> expected;
      int bits = 0;
      for (const Kernels* kernels : usable_kernels()) {
        const std::vector<float> score = answer(file, *kernels, features);
        for (std::size_t i = 0; i < score.size(); ++i) ASSERT_TRUE(std::isfinite(score[i])) << kernels->isa;
        if (expected.empty()) {
          expected = score;
          bits = kernels->bits;
        }
        // A last digit can tip an activation to its other level; fewer bits are another arithmetic.
        double tolerance = int8 ? 5e-3 : 1e-5;
        if (int8 && kernels->bits != bits) tolerance = 0.1;
        for (std::size_t i = 0; i < score.size(); ++i)
          EXPECT_NEAR(score[i], expected[i], tolerance) << kernels->isa << " int8 " << int8;
      }
    }
  }
}

TEST(NativeEngineTest, Int8IsNearFp32) {
  ModelSizes sizes = many_sizes()[5];
  const auto features = features_for(sizes);
  const std::vector<float> exact = answer(model_bytes(sizes), *usable_kernels().front(), features);
  sizes.int8 = true;
  for (const Kernels* kernels : usable_kernels()) {
    EXPECT_NEAR(answer(model_bytes(sizes), *kernels, features)[0], exact[0], 0.1) << kernels->isa;
  }
}

TEST(NativeEngineTest, AnAnswerDependsOnNothingThatWasRunBefore) {
  for (ModelSizes sizes : many_sizes()) {
    for (const bool int8 : {false, true}) {
      sizes.int8 = int8;
      const std::string file = model_bytes(sizes);
      const auto first = features_for(sizes, 1), second = features_for(sizes, 2);
      Engine engine(std::make_shared<const Weights>(read_onnx(file.data(), file.size()), *usable_kernels().front()));
      std::vector<float> score(sizes.outputs);
      engine.run({second[0].data(), second[1].data(), second[2].data()}, score.data());
      engine.run({first[0].data(), first[1].data(), first[2].data()}, score.data());
      EXPECT_EQ(score, answer(file, *usable_kernels().front(), first));
    }
  }
}

// Large enough that other threads are asked.
ModelSizes wide_sizes() { return {40, 4, 2, 2, {33, 17, 50}, {60, 12, 9}, {3, 2, 1}, {true, false, false}, true, false}; }

TEST(NativeEngineTest, HoweverManyThreadsTheAnswersAreTheSame) {
  ModelSizes sizes = wide_sizes();
  for (const bool int8 : {false, true}) {
    sizes.int8 = int8;
    const std::string file = model_bytes(sizes);
    const auto weights = std::make_shared<const Weights>(read_onnx(file.data(), file.size()), *usable_kernels().front());
    constexpr std::size_t kMost = 5;
    std::array<std::vector<float>, kModalityCount> all;
    for (unsigned sample = 0; sample < kMost; ++sample) {
      const auto features = features_for(sizes, sample + 1);
      for (int m = 0; m < kModalityCount; ++m) all[m].insert(all[m].end(), features[m].begin(), features[m].end());
    }
    const std::array<const float*, kModalityCount> features = {all[0].data(), all[1].data(), all[2].data()};
    std::vector<float> expected(kMost * sizes.outputs), scores(expected.size());
    Engine alone(weights);
    alone.run(features, expected.data(), kMost);
    for (const int threads : {2, 3, 6}) {
      Engine engine(weights, threads);
      ASSERT_EQ(engine.threads(), threads);
      for (std::size_t batch = 1; batch <= kMost; ++batch) {
        scores.assign(scores.size(), -1.0F);
        for (int call = 0; call < 3; ++call) {
          EXPECT_EQ(dmdkit_test::allocations_of(1, [&] { engine.run(features, scores.data(), batch); }), 0);
        }
        for (std::size_t i = 0; i < batch * sizes.outputs; ++i) ASSERT_EQ(scores[i], expected[i]) << threads << " threads";
        for (std::size_t i = batch * sizes.outputs; i < scores.size(); ++i) ASSERT_EQ(scores[i], -1.0F);
      }
    }
  }
}

TEST(NativeEngineTest, AShortCallIsLeftToOneThread) {
  const std::string file = model_bytes({});
  const auto weights = std::make_shared<const Weights>(read_onnx(file.data(), file.size()), *usable_kernels().front());
  EXPECT_EQ(Engine(weights, 4).threads(), 1);
}

TEST(NativeEngineTest, EmptyModalitiesAndHugeValuesGiveNumbers) {
  const ModelSizes sizes;
  auto features = features_for(sizes);
  for (auto& values : features) std::fill(values.begin(), values.end(), 0.0F);
  for (const bool huge : {false, true}) {
    if (huge) std::fill(features[0].begin(), features[0].end(), 1e15F);
    for (const Kernels* kernels : usable_kernels()) {
      EXPECT_TRUE(std::isfinite(answer(model_bytes(sizes), *kernels, features)[0])) << kernels->isa;
    }
  }
}

std::string refusal(const std::string& file) {
  try {
    const Weights weights(read_onnx(file.data(), file.size()), *usable_kernels().front());
  } catch (const dmdkit_plugin::Problem& problem) {
    return problem.what();
  }
  return "";
}

TEST(NativeEngineTest, RefusesAGraphThatDoesNotFitItsPlan) {
  const std::string good = model_bytes({});
  EXPECT_EQ(refusal(good), "");
  const auto changed = [&](const std::string& from, const std::string& to) {
    // As long as before, so that the lengths around it stay right.
    std::string text = good;
    const std::size_t at = text.rfind(from);
    EXPECT_NE(at, std::string::npos) << from;
    EXPECT_EQ(from.size(), to.size());
    return text.replace(at, from.size(), to);
  };
  EXPECT_NE(refusal(changed("gate.common ", "gate.kommon ")).find("does not name gate.common"), std::string::npos);
  EXPECT_NE(refusal(changed("text.encode weight=c", "text.encode weight=x")).find("not there"), std::string::npos);
  EXPECT_NE(refusal(changed("row=0", "row=1")).find("another size"), std::string::npos);
  EXPECT_NE(refusal(changed("width 10", "width 12")).find("another size"), std::string::npos);
  EXPECT_NE(refusal(changed("text.features 30", "text.features 31")).find("another size"), std::string::npos);
  EXPECT_NE(refusal(changed("text.kernel 3", "text.kernel 1")).find("another size"), std::string::npos);
  ModelSizes longer;
  longer.steps[kText] = 14;  // two digits, so that 99 may stand there
  const std::string file = model_bytes(longer);
  std::string text = file;
  text.replace(text.rfind("text.steps 14"), 13, "text.steps 99");
  EXPECT_NE(refusal(text).find("too small"), std::string::npos);
}

class PluginTest : public testing::Test {
 protected:
  const dmdkit_backend_vtable* table = dmdkit_backend_entry(DMDKIT_BACKEND_ABI_VERSION);
  char error[256] = "";

  dmdkit_backend_session* open(const std::string& file, const char* device = "cpu", int* code = nullptr) {
    dmdkit_backend_open_args args{};
    args.struct_size = sizeof args;
    args.graph = "fusion.fp32";
    args.model = file.data();
    args.model_bytes = file.size();
    args.device = device;
    args.threads = 1;
    args.affinity = "";
    dmdkit_backend_session* session = nullptr;
    const int found = table->open(&args, &session, error, sizeof error);
    if (code != nullptr) *code = found;
    return session;
  }
};

TEST_F(PluginTest, SaysWhatItIsAndTakes) {
  EXPECT_EQ(dmdkit_backend_entry(DMDKIT_BACKEND_ABI_VERSION + 1), nullptr);
  EXPECT_NE(std::string(table->describe()).find(chosen_kernels().isa), std::string::npos);
  dmdkit_backend_session* session = open(model_bytes({}));
  ASSERT_NE(session, nullptr) << error;
  ASSERT_EQ(table->input_count(session), 3U);
  dmdkit_backend_tensor tensor;
  table->input(session, 1, &tensor);
  EXPECT_STREQ(tensor.name, "audio");
  EXPECT_EQ(tensor.shape[0], -1);
  EXPECT_EQ(tensor.shape[2], 5);
  table->output(session, 0, &tensor);
  EXPECT_STREQ(tensor.name, "score");
  table->close(session);
  table->close(nullptr);
}

TEST_F(PluginTest, RefusesOtherDevicesAndFilesWithoutAPlan) {
  int code = 0;
  EXPECT_EQ(open(model_bytes({}), "cuda", &code), nullptr);
  EXPECT_EQ(code, DMDKIT_BACKEND_NO_DEVICE);
  EXPECT_EQ(open(field(7, ""), "cpu", &code), nullptr);
  EXPECT_EQ(code, DMDKIT_BACKEND_FAILED);
  EXPECT_NE(std::string(error).find("export the bundle again"), std::string::npos);
}

// Inputs of `batch` samples in the graph's order, and where their scores go.
struct Bound {
  Bound(const ModelSizes& sizes, std::size_t batch) : scores(batch * sizes.outputs) {
    for (std::size_t sample = 0; sample < batch; ++sample) {
      const auto features = features_for(sizes, static_cast<unsigned>(sample) + 1);
      const int order[] = {kText, kAudio, kVision};
      for (int i = 0; i < 3; ++i) inputs[i].insert(inputs[i].end(), features[order[i]].begin(), features[order[i]].end());
    }
  }
  int run(const dmdkit_backend_vtable* table, dmdkit_backend_session* session, std::size_t batch) {
    float* const in[] = {inputs[0].data(), inputs[1].data(), inputs[2].data()};
    float* const out[] = {scores.data()};
    char error[256];
    const int code = table->bind(session, batch, in, out, error, sizeof error);
    return code != 0 ? code : table->run(session, error, sizeof error);
  }
  std::array<std::vector<float>, 3> inputs;
  std::vector<float> scores;
};

TEST_F(PluginTest, ABatchIsItsSamplesAndACallAllocatesNothing) {
  for (const bool int8 : {false, true}) {
    ModelSizes sizes;
    sizes.int8 = int8;
    const std::string file = model_bytes(sizes);
    dmdkit_backend_session* session = open(file);
    ASSERT_NE(session, nullptr) << error;
    Bound bound(sizes, 3);
    int code = 0;
    EXPECT_EQ(dmdkit_test::allocations_of(1, [&] { code = bound.run(table, session, 3); }), 0);
    ASSERT_EQ(code, 0);
    for (unsigned sample = 0; sample < 3; ++sample) {
      EXPECT_EQ(bound.scores[sample], answer(file, chosen_kernels(), features_for(sizes, sample + 1))[0]);
    }
    table->close(session);
  }
}

TEST_F(PluginTest, SessionsShareWeightsAndRunSideBySide) {
  ModelSizes sizes;
  sizes.int8 = true;
  const std::string file = model_bytes(sizes);
  Bound expected(sizes, 2);
  dmdkit_backend_session* first = open(file);
  ASSERT_EQ(expected.run(table, first, 2), 0);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      char said[256];
      dmdkit_backend_open_args args{};
      args.struct_size = sizeof args;
      args.model = file.data();
      args.model_bytes = file.size();
      args.device = "cpu";
      dmdkit_backend_session* session = nullptr;
      if (table->open(&args, &session, said, sizeof said) != 0) {
        ++wrong;
        return;
      }
      Bound bound(sizes, 2);
      for (int call = 0; call < 20; ++call) wrong += bound.run(table, session, 2) != 0 || bound.scores != expected.scores;
      table->close(session);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  table->close(first);
}

}  // namespace
}  // namespace dmdkit_native
