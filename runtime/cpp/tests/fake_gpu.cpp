#include "fake_gpu.hpp"

#include <cstring>
#include <sstream>
#include <utility>

#include "dmdkit/backend.h"

namespace dmdkit_tensorrt {
namespace {

class FakeEngine final : public Engine {
 public:
  FakeEngine(FakeDevice& device, std::istringstream& plan) : device_(device) {
    std::string word;
    bool inputs = false;
    std::int64_t largest = 4;
    while (plan >> word) {
      const std::size_t equals = word.find('=');
      if (word == "|") {
        inputs = true;
      } else if (word == "refuse") {
        refuses_ = true;
      } else if (word == "double") {
        floats_ = false;
      } else if (word.rfind("batch=", 0) == 0) {
        largest = std::stoll(word.substr(equals + 1));
      } else {
        EngineTensor tensor;
        tensor.name = word.substr(0, equals);
        tensor.input = inputs;
        tensor.float_on_device = floats_;
        tensor.shape = {-1};
        tensor.largest_batch = largest;
        std::istringstream sizes(word.substr(equals + 1));
        std::string size;
        while (std::getline(sizes, size, 'x')) tensor.shape.push_back(std::stoll(size));
        tensors_.push_back(std::move(tensor));
      }
    }
  }

  std::vector<EngineTensor> tensors() const override { return tensors_; }

  bool set_address(const std::string& tensor, void* device) override {
    return addresses_.emplace(tensor, static_cast<float*>(device)).second;  // once only
  }

  bool set_input_shape(const std::string& tensor, const std::vector<std::int64_t>& shape) override {
    for (const EngineTensor& known : tensors_) {
      if (known.name == tensor && shape[0] > known.largest_batch) return false;
    }
    batch_ = shape[0];
    return true;
  }

  bool enqueue(Stream) override {
    if (refuses_) return false;
    device_.submit([this, batch = batch_] { compute(batch); });  // a recorded graph keeps the shape it was recorded with
    return true;
  }

 private:
  static std::int64_t values(const EngineTensor& tensor) {
    std::int64_t count = 1;
    for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) count *= tensor.shape[axis];
    return count;
  }

  void compute(std::int64_t batch) {
    for (std::int64_t sample = 0; sample < batch; ++sample) {
      double sum = 0.0;
      std::int64_t count = 0;
      for (const EngineTensor& tensor : tensors_) {
        if (!tensor.input) continue;
        const float* from = addresses_.at(tensor.name) + sample * values(tensor);
        for (std::int64_t i = 0; i < values(tensor); ++i) sum += from[i];
        count += values(tensor);
      }
      for (const EngineTensor& tensor : tensors_) {
        float* to = tensor.input ? nullptr : addresses_.at(tensor.name) + sample * values(tensor);
        for (std::int64_t i = 0; to != nullptr && i < values(tensor); ++i) {
          to[i] = static_cast<float>(sum / static_cast<double>(count) + static_cast<double>(i));
        }
      }
    }
  }

  FakeDevice& device_;
  std::vector<EngineTensor> tensors_;
  std::map<std::string, float*> addresses_;
  std::int64_t batch_ = 0;
  bool refuses_ = false;
  bool floats_ = true;
};

}  // namespace

void FakeDevice::submit(std::function<void()> work) {
  if (recording_) {
    recording_->push_back(std::move(work));
  } else {
    work();
  }
}

Gpu FakeDevice::gpu() {
  if (no_driver) throw Problem(DMDKIT_BACKEND_NO_DEVICE, "no NVIDIA driver or GPU: none is listed");
  return here;
}

void* FakeDevice::allocate(std::size_t bytes) {
  if (--allocations_left < 0) throw Problem(DMDKIT_BACKEND_NO_MEMORY, "cudaMalloc failed: CUDA error 2");
  std::vector<char> block(bytes);
  void* address = block.data();
  memory.emplace(address, std::move(block));
  return address;
}

void* FakeDevice::pinned(std::size_t bytes, bool) { return allocate(bytes); }

Stream FakeDevice::create_stream() {
  ++live_streams;
  return this;
}

void FakeDevice::destroy_stream(Stream) noexcept { --live_streams; }

void FakeDevice::synchronize(Stream) {
  if (recording_) throw Problem(DMDKIT_BACKEND_FAILED, "synchronising a stream that is captured is an error");
}

void FakeDevice::to_device(void* target, const void* source, std::size_t bytes, Stream) {
  ++copies;
  submit([=] { std::memcpy(target, source, bytes); });
}

void FakeDevice::to_host(void* target, const void* source, std::size_t bytes, Stream stream) {
  to_device(target, source, bytes, stream);
}

void FakeDevice::begin_capture(Stream) { recording_ = std::make_unique<Recording>(); }

Graph FakeDevice::end_capture(Stream) {
  if (capture_fails) throw Problem(DMDKIT_BACKEND_FAILED, "cudaStreamEndCapture failed: CUDA error 900");
  ++live_graphs;
  return recording_.release();
}

void FakeDevice::abandon_capture(Stream) noexcept { recording_.reset(); }

void FakeDevice::launch(Graph graph, Stream) {
  ++launches;
  for (const auto& work : *static_cast<Recording*>(graph)) work();
}

void FakeDevice::destroy_graph(Graph graph) noexcept {
  --live_graphs;
  delete static_cast<Recording*>(graph);
}

std::unique_ptr<Engine> FakeLibrary::open(const void* plan, std::size_t plan_bytes) {
  ++opened;
  std::istringstream text(std::string(static_cast<const char*>(plan), plan_bytes));
  std::string word;
  if (!(text >> word) || word != "plan") throw Problem(DMDKIT_BACKEND_FAILED, "the library cannot open the engine");
  return std::make_unique<FakeEngine>(device_, text);
}

}  // namespace dmdkit_tensorrt
