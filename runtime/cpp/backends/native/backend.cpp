// The native backend: DMD's fusion graph on kernels of our own, instead of an inference library.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../plugin.hpp"
#include "engine.hpp"
#include "instruction_sets.hpp"
#include "onnx_file.hpp"
#include "stepper.hpp"
#include "weights.hpp"

using dmdkit_native::Engine;
using dmdkit_native::Heads;
using dmdkit_native::Stepper;
using dmdkit_native::Weights;
using dmdkit_plugin::Problem;

namespace {

// One set of packed weights for all open sessions of a graph. Graphs are told apart by all their bytes.
class SharedWeights {
 public:
  std::shared_ptr<const Weights> of(const void* model, std::size_t size, const dmdkit_native::Kernels& kernels) {
    const auto* bytes = static_cast<const std::uint8_t*>(model);
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = entries_.begin(); entry != entries_.end();) {
      const std::shared_ptr<const Weights> found = entry->weights.lock();
      if (found == nullptr) {
        entry = entries_.erase(entry);
        continue;
      }
      if (&found->kernels == &kernels && entry->size == size && entry->sums == sums_of(bytes, size)) return found;
      ++entry;
    }
    const auto made = std::make_shared<const Weights>(dmdkit_native::read_onnx(model, size), kernels);
    entries_.push_back({size, sums_of(bytes, size), made});
    return made;
  }

 private:
  using Sums = std::array<std::uint64_t, 4>;
  struct Entry {
    std::size_t size;
    Sums sums;
    std::weak_ptr<const Weights> weights;
  };

  // Four independent multiplicative sums. The bytes were already checked against the bundle's hash, so nobody chose them to
  // look like another graph's.
  static Sums sums_of(const std::uint8_t* bytes, std::size_t size) {
    Sums sums = {1, 2, 3, 4};
    constexpr std::size_t kStep = sizeof(sums);
    std::size_t at = 0;
    for (; at + kStep <= size; at += kStep) {
      Sums words;
      std::memcpy(words.data(), bytes + at, kStep);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = (sums[i] ^ words[i]) * 0x9e3779b97f4a7c15U + (sums[i] >> 29);
    }
    for (; at < size; ++at) sums[0] = (sums[0] ^ bytes[at]) * 0x100000001b3U;
    return sums;
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

SharedWeights& shared_weights() {
  static SharedWeights shared;
  return shared;
}

// The inputs of a fusion graph in its order, and where the engine has them.
constexpr int kInputOrder[] = {dmdkit_native::kText, dmdkit_native::kAudio, dmdkit_native::kVision};

}  // namespace

struct dmdkit_backend_session {
 public:
  struct TensorInfo {
    std::string name;
    std::vector<std::int64_t> shape;
    float* buffer = nullptr;
  };

  static std::unique_ptr<dmdkit_backend_session> open(const dmdkit_backend_open_args& args) {
    if (std::string(args.device) != "cpu") throw Problem(DMDKIT_BACKEND_NO_DEVICE, "the native kernels run on CPUs alone");
    const auto weights = shared_weights().of(args.model, args.model_bytes, dmdkit_native::chosen_kernels());
    constexpr std::size_t kWithSteps = offsetof(dmdkit_backend_open_args, step_model_bytes) + sizeof args.step_model_bytes;
    if (args.struct_size >= kWithSteps && args.step_model != nullptr) {
      const auto heads =
          std::make_shared<const Heads>(dmdkit_native::read_onnx(args.step_model, args.step_model_bytes), *weights);
      return of_steps(weights, heads);
    }
    // More threads than cores would wait for each other.
    const auto cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    return of_windows(weights, std::min(args.threads, cores));
  }

  std::unique_ptr<dmdkit_backend_session> share() const {
    return stepper_ ? of_steps(stepper_->weights(), stepper_->heads())
                    : of_windows(engine_->shared_weights(), engine_->threads());
  }

  const std::vector<TensorInfo>& inputs() const noexcept { return inputs_; }
  const std::vector<TensorInfo>& outputs() const noexcept { return outputs_; }
  const char* note() const noexcept { return nullptr; }

  void bind(std::size_t batch, float* const* inputs, float* const* outputs) {
    if (!engine_) throw Problem(DMDKIT_BACKEND_FAILED, "a session of steps is not bound");
    for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].buffer = inputs[i];
    outputs_[0].buffer = outputs[0];
    batch_ = batch;
  }

  void run() {
    if (!engine_) throw Problem(DMDKIT_BACKEND_FAILED, "a session of steps is not run");
    std::array<const float*, dmdkit_native::kModalityCount> features;
    for (std::size_t i = 0; i < features.size(); ++i) features[kInputOrder[i]] = inputs_[i].buffer;
    const float* steps = inputs_.size() > features.size() ? inputs_.back().buffer : nullptr;
    const dmdkit_native::Plan::Input& input = engine_->weights().plan.inputs[0];
    for (std::size_t i = 0; steps != nullptr && i < batch_; ++i) {
      if (!(steps[i] >= static_cast<float>(input.kernel) && steps[i] <= static_cast<float>(input.steps))) {
        throw Problem(DMDKIT_BACKEND_FAILED, "a sample has fewer steps than its kernel, or more than the model");
      }
    }
    engine_->run(features, outputs_[0].buffer, batch_, steps);
  }

  void step(std::size_t place, std::size_t count, const float* const* rows, float* const* outputs) {
    check_steps(0, place, count);
    std::array<const float*, dmdkit_native::kModalityCount> features;
    for (std::size_t i = 0; i < features.size(); ++i) features[kInputOrder[i]] = rows[i];
    stepper_->run(place, count, features, {outputs[0], outputs[1], outputs_.size() > 2 ? outputs[2] : nullptr});
  }

  void read_state(std::size_t tensor, std::size_t steps, float* values) const {
    check_steps(tensor, 0, steps);
    stepper_->read(tensor, steps, values);
  }

  void write_state(std::size_t tensor, std::size_t steps, const float* values) {
    check_steps(tensor, 0, steps);
    stepper_->write(tensor, steps, values);
  }

 private:
  static std::unique_ptr<dmdkit_backend_session> of_windows(std::shared_ptr<const Weights> weights, int threads) {
    auto session = std::make_unique<dmdkit_backend_session>();
    session->engine_ = std::make_unique<Engine>(std::move(weights), threads);
    const dmdkit_native::Plan& plan = session->engine_->weights().plan;
    for (const int m : kInputOrder) session->add_input(m, {-1, plan.inputs[m].steps, plan.inputs[m].features});
    if (plan.real_steps == 1) session->inputs_.push_back({"steps", {-1}});
    session->outputs_.push_back({"score", {-1, plan.outputs}});
    return session;
  }

  static std::unique_ptr<dmdkit_backend_session> of_steps(std::shared_ptr<const Weights> weights,
                                                          std::shared_ptr<const Heads> heads) {
    auto session = std::make_unique<dmdkit_backend_session>();
    const bool edges = heads->unit_width != 0;
    session->stepper_ = std::make_unique<Stepper>(std::move(weights), std::move(heads));
    const dmdkit_native::Plan& plan = session->stepper_->weights()->plan;
    for (const int m : kInputOrder) session->add_input(m, {-1, plan.inputs[m].features});
    const auto levels = static_cast<std::size_t>(plan.levels);
    for (std::size_t tensor = 0; tensor < session->stepper_->tensors(); ++tensor) {
      const bool memory = tensor / 2 >= levels;
      const std::int64_t width = (memory ? 2 : 1) * plan.width / plan.heads;
      session->inputs_.push_back({(memory ? "memory_" : "") + std::string(tensor % 2 == 0 ? "keys_" : "values_") +
                                      std::to_string(tensor / 2 - (memory ? levels : 0) + 1),
                                  {static_cast<std::int64_t>(session->stepper_->channels(tensor)) / width, width,
                                   static_cast<std::int64_t>(session->stepper_->capacity())}});
    }
    session->outputs_.push_back({"score", {-1, plan.outputs}});
    session->outputs_.push_back({"logit_hetero", {-1, dmdkit_native::kModalityCount, plan.outputs}});
    if (edges) session->outputs_.push_back({"edges_hetero", {-1, dmdkit_native::kEdgeCount}});
    return session;
  }

  void add_input(int modality, std::vector<std::int64_t> shape) {
    inputs_.push_back({dmdkit_native::kModalityNames[modality], std::move(shape)});
  }

  void check_steps(std::size_t tensor, std::size_t place, std::size_t count) const {
    if (!stepper_) throw Problem(DMDKIT_BACKEND_FAILED, "a session of windows takes no steps");
    if (tensor >= stepper_->tensors() || count > stepper_->capacity() || place > stepper_->capacity() - count) {
      throw Problem(DMDKIT_BACKEND_FAILED, "more steps than a state holds, or another tensor than it has");
    }
  }

  std::unique_ptr<Engine> engine_;    // of windows
  std::unique_ptr<Stepper> stepper_;  // of steps
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::size_t batch_ = 0;
};

namespace {

const char* describe() {
  // Names the instruction set: a measured latency or verdict belongs to it.
  static const std::string text = [] {
    try {
      const dmdkit_native::Kernels& kernels = dmdkit_native::chosen_kernels();
      // An arithmetic of its own is named: verdicts on INT8 belong to it.
      return std::string("native 1 (") + kernels.isa + (kernels.bits == 8 ? ")" : ", 7-bit)");
    } catch (const std::exception&) {
      return std::string("native 1");
    }
  }();
  return text.c_str();
}

constexpr dmdkit_backend_vtable kTable = dmdkit_plugin::table_of<dmdkit_backend_session>(describe, /*takes_engines=*/false);

}  // namespace

DMDKIT_BACKEND_DEFINE_ENTRY(kTable);
