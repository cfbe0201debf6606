#include "engine_session.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace dmdkit_tensorrt {
namespace {

constexpr std::uint64_t kMaxBufferBytes = std::uint64_t{1} << 32;

[[noreturn]] void fail(const std::string& text) { throw Problem(DMDKIT_BACKEND_FAILED, text); }

std::vector<std::string> numbers_of(const std::string& version) {
  std::vector<std::string> numbers;
  std::istringstream parts(version);
  std::string part;
  while (std::getline(parts, part, '.') && !part.empty() && part.find_first_not_of("0123456789") == std::string::npos) {
    numbers.push_back(part);
  }
  return numbers;
}

}  // namespace

bool same_version(const std::string& one, const std::string& other) {
  const std::vector<std::string> a = numbers_of(one);
  const std::vector<std::string> b = numbers_of(other);
  const std::size_t common = std::min(a.size(), b.size());
  return common >= 3 && std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(common), b.begin());
}

void preflight(const dmdkit_backend_engine& engine, const Library& library, const Gpu& gpu) {
  const std::string who = std::string("engine ") + engine.name;
  std::string capabilities;
  bool fits = false;
  for (std::size_t i = 0; i < engine.compute_capability_count; ++i) {
    capabilities += (i == 0 ? "" : ", ") + std::string(engine.compute_capabilities[i]);
    fits = fits || gpu.capability == engine.compute_capabilities[i];
  }
  if (!fits) {
    fail(who + " is compiled for compute capability " + capabilities + ", " + gpu.name + " has " + gpu.capability +
         "; build it for this GPU");
  }
  const std::string flavour = engine.flavour;
  if (flavour != library.flavour()) {
    fail(who + " needs " + flavour + " " + engine.version + ", this backend was built for " + library.flavour());
  }
  if (flavour == "tensorrt" && engine.gpu != nullptr && gpu.name != engine.gpu) {
    fail(who + " was built on " + engine.gpu + ", this is " + gpu.name + "; build it here");
  }
  if (!same_version(engine.version, library.version())) {
    fail(who + " was built by " + flavour + " " + engine.version + ", here is " + library.version() + "; build it again");
  }
}

EngineSession::EngineSession(Platform platform, const dmdkit_backend_engine& engine, const std::string& graph)
    : platform_(platform), name_(graph) {
  const Gpu gpu = platform_.device.gpu();
  preflight(engine, platform_.library, gpu);
  mapped_ = gpu.integrated;
  try {
    engine_ = platform_.library.open(engine.plan, engine.plan_bytes);
    describe();
    stream_ = platform_.device.create_stream();
    for (auto* tensors : {&inputs_, &outputs_}) {
      for (Tensor& tensor : *tensors) allocate(tensor);
    }
  } catch (...) {
    release();
    throw;
  }
}

EngineSession::~EngineSession() { release(); }

// The order matters: what uses memory goes before the memory it was given.
void EngineSession::release() noexcept {
  if (graph_ != nullptr) platform_.device.destroy_graph(graph_);
  graph_ = nullptr;
  engine_.reset();
  for (auto* tensors : {&inputs_, &outputs_}) {
    for (Tensor& tensor : *tensors) {
      if (tensor.device != nullptr && !mapped_) platform_.device.free(tensor.device);
      if (tensor.host != nullptr) platform_.device.free_pinned(tensor.host);
    }
    tensors->clear();
  }
  if (stream_ != nullptr) platform_.device.destroy_stream(stream_);
  stream_ = nullptr;
}

// Reads inputs and outputs off the engine itself, whatever its sidecar says: buffers are sized from this.
void EngineSession::describe() {
  std::int64_t largest = 0;
  for (const EngineTensor& found : engine_->tensors()) {
    const std::string who = name_ + ": " + found.name;
    if (!found.float_on_device) fail(who + " is not float32 in GPU memory; build the engine again");
    if (found.shape.empty()) fail(who + " has no batch axis; build the engine again");
    Tensor tensor;
    tensor.name = found.name;
    tensor.shape = found.shape;
    tensor.shape[0] = -1;
    std::uint64_t bytes = sizeof(float);
    for (std::size_t axis = 1; axis < found.shape.size(); ++axis) {
      if (found.shape[axis] <= 0 || static_cast<std::uint64_t>(found.shape[axis]) > kMaxBufferBytes / bytes) {
        fail(who + " has no fixed sizes; build the engine again");
      }
      bytes *= static_cast<std::uint64_t>(found.shape[axis]);
    }
    tensor.row_bytes = bytes;
    if (found.input) {
      if (found.smallest_batch > 1) fail(name_ + ": the engine takes no single sample; build it with a smallest batch of 1");
      largest = largest == 0 ? found.largest_batch : std::min(largest, found.largest_batch);
    }
    (found.input ? inputs_ : outputs_).push_back(std::move(tensor));
  }
  if (inputs_.empty() || outputs_.empty() || largest < 1) fail(name_ + ": an engine of another kind; build it again");
  largest_ = static_cast<std::size_t>(largest);
}

void EngineSession::allocate(Tensor& tensor) {
  if (largest_ > kMaxBufferBytes / tensor.row_bytes) fail(name_ + ": " + tensor.name + " is too large; build it again");
  const std::size_t bytes = largest_ * tensor.row_bytes;
  tensor.host = platform_.device.pinned(bytes, mapped_);
  std::memset(tensor.host, 0, bytes);
  tensor.device = mapped_ ? platform_.device.device_address(tensor.host) : platform_.device.allocate(bytes);
  if (!engine_->set_address(tensor.name, tensor.device)) {
    fail(name_ + ": the engine has no tensor '" + tensor.name + "'; build it again");
  }
}

void EngineSession::set_shapes(std::size_t batch) {
  if (batch == shaped_) return;
  shaped_ = 0;
  for (const Tensor& tensor : inputs_) {
    std::vector<std::int64_t> shape = tensor.shape;
    shape[0] = static_cast<std::int64_t>(batch);
    if (!engine_->set_input_shape(tensor.name, shape)) {
      fail(name_ + ": the engine refuses a batch of " + std::to_string(batch));
    }
  }
  shaped_ = batch;
}

void EngineSession::enqueue(std::size_t batch) {
  Device& device = platform_.device;
  for (const Tensor& tensor : inputs_) {
    if (!mapped_) device.to_device(tensor.device, tensor.host, batch * tensor.row_bytes, stream_);
  }
  if (!engine_->enqueue(stream_)) fail(name_ + ": the engine refused to run a batch of " + std::to_string(batch));
  for (const Tensor& tensor : outputs_) {
    if (!mapped_) device.to_host(tensor.host, tensor.device, batch * tensor.row_bytes, stream_);
  }
}

void EngineSession::capture(std::size_t batch) {
  try {
    platform_.device.begin_capture(stream_);
    enqueue(batch);
    graph_ = platform_.device.end_capture(stream_);
    note_ = "CUDA graph";
  } catch (const Problem& cause) {
    platform_.device.abandon_capture(stream_);
    note_ = std::string("plain: no CUDA graph, ") + cause.what();
  }
}

void EngineSession::bind(std::size_t batch, float* const* inputs, float* const* outputs) {
  if (graph_ != nullptr) platform_.device.destroy_graph(graph_);
  graph_ = nullptr;
  note_ = "plain";
  for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].caller = inputs[i];
  for (std::size_t i = 0; i < outputs_.size(); ++i) outputs_[i].caller = outputs[i];
  batch_ = batch;
  const std::size_t part = std::min(batch, largest_);
  set_shapes(part);
  enqueue(part);  // on zeros or the last call's values: what it gives is not looked at
  platform_.device.synchronize(stream_);
  if (batch > largest_) {
    note_ = "plain: a batch above " + std::to_string(largest_) + " runs in parts";
  } else {
    capture(part);
  }
}

void EngineSession::run() {
  for (std::size_t first = 0; first < batch_; first += largest_) run_part(first, std::min(largest_, batch_ - first));
}

void EngineSession::run_part(std::size_t first, std::size_t batch) {
  for (const Tensor& tensor : inputs_) {
    std::memcpy(tensor.host, reinterpret_cast<const char*>(tensor.caller) + first * tensor.row_bytes, batch * tensor.row_bytes);
  }
  if (graph_ != nullptr) {
    platform_.device.launch(graph_, stream_);
  } else {
    set_shapes(batch);
    enqueue(batch);
  }
  platform_.device.synchronize(stream_);
  for (const Tensor& tensor : outputs_) {
    std::memcpy(reinterpret_cast<char*>(tensor.caller) + first * tensor.row_bytes, tensor.host, batch * tensor.row_bytes);
  }
}

}  // namespace dmdkit_tensorrt
