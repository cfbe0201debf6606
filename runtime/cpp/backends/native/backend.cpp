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
#include "weights.hpp"

using dmdkit_native::Engine;
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
    const dmdkit_native::Kernels& kernels = dmdkit_native::chosen_kernels();
    auto session = std::make_unique<dmdkit_backend_session>();
    // More threads than cores would wait for each other.
    const auto cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    session->engine_ =
        std::make_unique<Engine>(shared_weights().of(args.model, args.model_bytes, kernels), std::min(args.threads, cores));
    const dmdkit_native::Plan& plan = session->engine_->weights().plan;
    for (const int m : kInputOrder) {
      TensorInfo input;
      input.name = dmdkit_native::kModalityNames[m];
      input.shape = {-1, plan.inputs[m].steps, plan.inputs[m].features};
      session->inputs_.push_back(std::move(input));
    }
    TensorInfo score;
    score.name = "score";
    score.shape = {-1, plan.outputs};
    session->outputs_.push_back(std::move(score));
    return session;
  }

  const std::vector<TensorInfo>& inputs() const noexcept { return inputs_; }
  const std::vector<TensorInfo>& outputs() const noexcept { return outputs_; }
  const char* note() const noexcept { return nullptr; }

  void bind(std::size_t batch, float* const* inputs, float* const* outputs) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].buffer = inputs[i];
    outputs_[0].buffer = outputs[0];
    batch_ = batch;
  }

  void run() {
    std::array<const float*, dmdkit_native::kModalityCount> features;
    for (std::size_t i = 0; i < inputs_.size(); ++i) features[kInputOrder[i]] = inputs_[i].buffer;
    engine_->run(features, outputs_[0].buffer, batch_);
  }

 private:
  std::unique_ptr<Engine> engine_;
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
