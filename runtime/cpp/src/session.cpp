#include "session.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "backend_library.hpp"
#include "failure.hpp"
#include "json_fields.hpp"

namespace dmdkit {
namespace {

constexpr std::size_t kAlignmentBytes = 64;  // a cache line, and the widest vector
constexpr std::size_t kErrorBytes = 512;
constexpr std::size_t kMaxPorts = 64;
constexpr std::size_t kMaxPortValues = std::size_t{1} << 28;

void free_floats(float* memory) { std::free(memory); }

std::size_t padded(std::size_t values) {
  constexpr std::size_t kStep = kAlignmentBytes / sizeof(float);
  return (values + kStep - 1) / kStep * kStep;
}

std::vector<dmdkit_backend_entry_pair> pairs_of(const std::map<std::string, std::string>& entries) {
  std::vector<dmdkit_backend_entry_pair> pairs;
  for (const auto& [key, value] : entries) pairs.push_back({key.c_str(), value.c_str()});
  return pairs;
}

const Port* find_port(const std::vector<Port>& ports, const std::string& name) noexcept {
  const auto found = std::find_if(ports.begin(), ports.end(), [&](const Port& port) { return port.name == name; });
  return found == ports.end() ? nullptr : &*found;
}

}  // namespace

Session::Session(const Bundle& bundle, const std::string& name, const Options& options)
    : table_(load_backend(options.backend, options.backend_directory)), name_(name), memory_(nullptr, &free_floats) {
  const GraphRecord* record = bundle.manifest().find_graph(name);
  if (record == nullptr) {
    throw Failure(StatusCode::kGraphUnavailable, bundle.path() + ": no graph " + in_quotes(name));
  }
  const Bytes model = bundle.read(record->file);
  const std::vector<dmdkit_backend_entry_pair> session_options = pairs_of(record->session_options);
  const std::vector<dmdkit_backend_entry_pair> provider_options = pairs_of(options.provider_options);
  dmdkit_backend_open_args args{};
  args.struct_size = sizeof args;
  args.graph = name_.c_str();
  args.model = model.data();
  args.model_bytes = model.size();
  args.device = options.device == "auto" ? "cpu" : options.device.c_str();
  args.threads = options.threads;
  args.spin = options.spin ? static_cast<int>(*options.spin) : -1;
  args.affinity = options.affinity.c_str();
  args.session_options = session_options.data();
  args.session_option_count = session_options.size();
  args.provider_options = provider_options.data();
  args.provider_option_count = provider_options.size();
  char error[kErrorBytes] = "";
  const int code = table_.open(&args, &session_, error, sizeof error);
  if (code != DMDKIT_BACKEND_OK) fail(code, error);
  try {
    describe(false, inputs_);
    describe(true, outputs_);
  } catch (...) {
    table_.close(session_);
    throw;
  }
}

Session::~Session() { table_.close(session_); }

void Session::fail(int code, const char* error) const {
  const StatusCode status = code == DMDKIT_BACKEND_NO_DEVICE   ? StatusCode::kBackendUnavailable
                            : code == DMDKIT_BACKEND_NO_MEMORY ? StatusCode::kOutOfMemory
                                                               : StatusCode::kBackendFailed;
  throw Failure(status, printable(error));
}

void Session::describe(bool outputs, std::vector<Port>& ports) {
  const std::size_t count = outputs ? table_.output_count(session_) : table_.input_count(session_);
  if (count == 0 || count > kMaxPorts) throw Failure(StatusCode::kBundleDamaged, name_ + ": an ONNX graph of another kind");
  for (std::size_t i = 0; i < count; ++i) {
    dmdkit_backend_tensor tensor{};
    (outputs ? table_.output : table_.input)(session_, i, &tensor);
    Port port;
    port.name = tensor.name;
    port.values = 1;
    bool good = tensor.rank >= 1;
    for (std::size_t axis = 1; good && axis < tensor.rank; ++axis) {
      const std::int64_t size = tensor.shape[axis];
      good = size > 0 && static_cast<std::uint64_t>(size) <= kMaxPortValues / port.values;
      if (!good) break;
      port.sizes.push_back(static_cast<std::size_t>(size));
      port.values *= static_cast<std::size_t>(size);
    }
    if (!good) throw Failure(StatusCode::kBundleDamaged, name_ + ": " + in_quotes(port.name) + " has no fixed sizes");
    ports.push_back(std::move(port));
  }
}

const Port* Session::find_input(const std::string& port) const noexcept { return find_port(inputs_, port); }
const Port* Session::find_output(const std::string& port) const noexcept { return find_port(outputs_, port); }

void Session::bind(std::size_t batch) {
  if (batch == batch_) return;
  std::unique_ptr<float, void (*)(float*)> old(nullptr, &free_floats);  // freed when the backend has let go of it
  if (batch > capacity_) {
    std::size_t total = 0;
    for (const auto* ports : {&inputs_, &outputs_}) {
      for (const Port& port : *ports) total += padded(batch * port.values);
    }
    void* memory = nullptr;
    if (::posix_memalign(&memory, kAlignmentBytes, total * sizeof(float)) != 0) throw std::bad_alloc();
    std::memset(memory, 0, total * sizeof(float));
    old = std::move(memory_);
    memory_.reset(static_cast<float*>(memory));
    capacity_ = batch;
    float* at = memory_.get();
    for (auto* ports : {&inputs_, &outputs_}) {
      for (Port& port : *ports) {
        port.buffer = at;
        at += padded(batch * port.values);
      }
    }
  }
  float* inputs[kMaxPorts];
  float* outputs[kMaxPorts];
  for (std::size_t i = 0; i < inputs_.size(); ++i) inputs[i] = inputs_[i].buffer;
  for (std::size_t i = 0; i < outputs_.size(); ++i) outputs[i] = outputs_[i].buffer;
  char error[kErrorBytes] = "";
  batch_ = 0;
  const int code = table_.bind(session_, batch, inputs, outputs, error, sizeof error);
  if (code != DMDKIT_BACKEND_OK) fail(code, error);
  batch_ = batch;
}

Status Session::run() noexcept {
  char error[kErrorBytes] = "";
  const int code = table_.run(session_, error, sizeof error);
  if (code == DMDKIT_BACKEND_OK) return {};
  return guarded<Status>([&]() -> Status { fail(code, error); });
}

}  // namespace dmdkit
