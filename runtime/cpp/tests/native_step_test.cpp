// Steps of a stream on the native kernels: every step answers what a window of the steps heard so far answers, on every
// instruction set, however many steps come at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "../backends/native/engine.hpp"
#include "../backends/native/instruction_sets.hpp"
#include "../backends/native/stepper.hpp"
#include "../backends/plugin.hpp"
#include "counting_new.hpp"
#include "native_model.hpp"

namespace dmdkit_native {
namespace {

using Features = std::vector<std::vector<float>>;

std::shared_ptr<const Weights> weights_of(const ModelSizes& sizes, const Kernels& kernels) {
  const std::string file = model_bytes(sizes);
  return std::make_shared<const Weights>(read_onnx(file.data(), file.size()), kernels);
}

std::unique_ptr<Stepper> stepper_of(const ModelSizes& sizes, const Kernels& kernels) {
  const std::string file = step_model_bytes(sizes);
  const auto weights = weights_of(sizes, kernels);
  return std::make_unique<Stepper>(weights, std::make_shared<const Heads>(read_onnx(file.data(), file.size()), *weights));
}

// Models that stream: head widths held in registers and not, more heads than lanes, one channel, odd sizes.
std::vector<ModelSizes> streaming_sizes() {
  return {
      {},
      {15, 3, 2, 1, {11, 11, 11}, {13, 6, 5}, {4, 4, 4}, {true, false, true}, true, false},
      {34, 2, 1, 2, {7, 7, 7}, {40, 12, 33}, {1, 1, 1}, {true, true, false}, false, false},
      {18, 18, 3, 1, {5, 5, 5}, {3, 2, 1}, {2, 2, 2}, {false, false, false}, true, false},
      {1, 1, 1, 1, {4, 4, 4}, {2, 2, 2}, {2, 2, 2}, {true, false, false}, false, false},
  };
}

struct Answers {
  std::vector<float> score, logits, edges;
};

// All steps, `sizes` of them at once in turn.
Answers stepped(Stepper& stepper, const ModelSizes& model, const Features& features, const std::vector<int>& at_once) {
  const auto total = static_cast<std::size_t>(model.steps[0]) - stepper.kernel() + 1;
  Answers found;
  found.score.resize(total * model.outputs);
  found.logits.resize(total * 3 * model.outputs);
  found.edges.resize(total * kEdgeCount);
  std::size_t place = 0;
  for (std::size_t push = 0; place < total; ++push) {
    const auto count = std::min<std::size_t>(at_once[push % at_once.size()], total - place);
    std::array<const float*, kModalityCount> rows;
    for (int m = 0; m < kModalityCount; ++m) rows[m] = features[m].data() + place * model.features[m];
    stepper.run(place, count, rows,
                {found.score.data() + place * model.outputs, found.logits.data() + place * 3 * model.outputs,
                 found.edges.data() + place * kEdgeCount});
    place += count;
  }
  return found;
}

// The score of a window of every prefix that has an answer.
std::vector<float> windows(ModelSizes model, const Kernels& kernels, const Features& features) {
  std::vector<float> found;
  for (int steps = model.kernels[0]; steps <= model.steps[0]; ++steps) {
    model.prefix = steps;
    Engine engine(weights_of(model, kernels));
    std::vector<float> score(model.outputs);
    engine.run({features[0].data(), features[1].data(), features[2].data()}, score.data());
    found.insert(found.end(), score.begin(), score.end());
  }
  return found;
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0.0F;
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(std::isfinite(a[i]));
    largest = std::max(largest, std::abs(a[i] - b[i]));
  }
  return largest;
}

TEST(NativeStepTest, EveryStepAnswersAsTheWindowOfItsPrefix) {
  for (ModelSizes model : streaming_sizes()) {
    const auto features = features_for(model);
    for (const bool int8 : {false, true}) {
      model.int8 = int8;
      std::vector<float> expected;  // the same for all sets of as many bits, to the last digits
      int bits = 0;
      for (const Kernels* kernels : usable_kernels()) {
        if (expected.empty() || (int8 && kernels->bits != bits)) expected = windows(model, *kernels, features);
        bits = kernels->bits;
        const auto stepper = stepper_of(model, *kernels);
        const Answers found = stepped(*stepper, model, features, {1});
        // A window has one scale for all raw steps of a modality that is projected, a step one for those under its kernel.
        const float tolerance = int8 ? (kernels->bits == 8 ? 0.05F : 0.1F) : 1e-5F;
        EXPECT_LE(largest_difference(found.score, expected), tolerance)
            << kernels->isa << " int8 " << int8 << " width " << model.width;
        for (std::size_t i = 0; i < found.edges.size(); i += kEdgeCount) {
          const auto edge = found.edges.begin() + static_cast<std::ptrdiff_t>(i);
          EXPECT_NEAR(std::accumulate(edge, edge + kEdgeCount, 0.0F), 1.0F, 1e-5F);
        }
      }
    }
  }
}

TEST(NativeStepTest, HoweverManyStepsComeAtOnceTheAnswersAreTheSame) {
  for (ModelSizes model : streaming_sizes()) {
    const auto features = features_for(model);
    for (const bool int8 : {false, true}) {
      model.int8 = int8;
      for (const Kernels* kernels : usable_kernels()) {
        const auto stepper = stepper_of(model, *kernels);
        const Answers one = stepped(*stepper, model, features, {1});
        for (const std::vector<int>& at_once : {std::vector<int>{2}, {4}, {8}, {1, 3, 2, 7}, {50}}) {
          const Answers many = stepped(*stepper, model, features, at_once);
          EXPECT_EQ(one.score, many.score) << kernels->isa;
          EXPECT_EQ(one.logits, many.logits) << kernels->isa;
          EXPECT_EQ(one.edges, many.edges) << kernels->isa;
        }
      }
    }
  }
}

TEST(NativeStepTest, InstructionSetsAnswerAlikeInEveryOutput) {
  for (const ModelSizes& model : streaming_sizes()) {
    const auto features = features_for(model);
    const Answers first = stepped(*stepper_of(model, *usable_kernels().front()), model, features, {1});
    for (const Kernels* kernels : usable_kernels()) {
      const Answers found = stepped(*stepper_of(model, *kernels), model, features, {1});
      EXPECT_LE(largest_difference(found.score, first.score), 1e-5F) << kernels->isa;
      EXPECT_LE(largest_difference(found.logits, first.logits), 2e-5F) << kernels->isa;
      EXPECT_LE(largest_difference(found.edges, first.edges), 1e-5F) << kernels->isa;
    }
  }
}

// A snapshot's form: what one stepper holds, another goes on from.
TEST(NativeStepTest, AStateGoesFromOneToAnother) {
  const ModelSizes model;
  const auto features = features_for(model);
  const Kernels& kernels = *usable_kernels().front();
  const auto first = stepper_of(model, kernels), second = stepper_of(model, kernels);
  const Answers expected = stepped(*first, model, features, {1});
  const std::size_t place = 3, left = expected.score.size() - place;
  ASSERT_EQ(first->tensors(), 2U * (2 + 3));
  for (std::size_t tensor = 0; tensor < first->tensors(); ++tensor) {
    EXPECT_EQ(first->channels(tensor), tensor < 4 ? 9U * 10 : 3U * 20);
    std::vector<float> held(place * first->channels(tensor)), again(held.size());
    first->read(tensor, place, held.data());
    second->write(tensor, place, held.data());
    second->read(tensor, place, again.data());
    EXPECT_EQ(held, again);
  }
  std::array<const float*, kModalityCount> rows;
  for (int m = 0; m < kModalityCount; ++m) rows[m] = features[m].data() + place * model.features[m];
  std::vector<float> found(left);
  second->run(place, left, rows, {found.data(), nullptr, nullptr});
  EXPECT_EQ(found, std::vector<float>(expected.score.begin() + place, expected.score.end()));
}

TEST(NativeStepTest, AStepAllocatesNothing) {
  for (const bool int8 : {false, true}) {
    ModelSizes model = streaming_sizes()[1];
    model.int8 = int8;
    const auto features = features_for(model);
    const auto stepper = stepper_of(model, *usable_kernels().front());
    std::vector<float> score(16), logits(48), edges(48);
    const auto push = [&] {
      stepper->run(0, 8, {features[0].data(), features[1].data(), features[2].data()},
                   {score.data(), logits.data(), edges.data()});
    };
    EXPECT_EQ(dmdkit_test::allocations_of(1, push), 0);
  }
}

TEST(NativeStepTest, AModelWhoseModalitiesDifferInLengthIsRefused) {
  ModelSizes model;
  model.steps[kAudio] = 12;
  EXPECT_THROW(stepper_of(model, *usable_kernels().front()), dmdkit_plugin::Problem);
}

}  // namespace
}  // namespace dmdkit_native
