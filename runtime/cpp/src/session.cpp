#include "session.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "backend_library.hpp"
#include "engines.hpp"
#include "failure.hpp"
#include "json_fields.hpp"

namespace dmdkit {
namespace {

constexpr std::size_t kAlignmentBytes = 64;  // a cache line, and the widest vector
constexpr std::size_t kErrorBytes = 512;
constexpr const char kNative[] = "native";
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

// The native kernels run fusion graphs alone; what explains stays in ONNX Runtime.
std::string backend_for(const Bundle& bundle, const std::string& name, const Options& options) {
  const GraphRecord* record = bundle.manifest().find_graph(name);
  return options.backend == kNative && record != nullptr && record->kind != "fusion" ? "onnxruntime" : options.backend;
}

// The fusion graph whose parity was proven on the native kernels, INT8 first.
std::string proven_on_native(const Manifest& manifest, const Options& options) {
  for (const char* precision : {"int8-cpu", "fp32"}) {
    const std::string name = std::string("fusion.") + precision;
    const GraphRecord* record = manifest.find_graph(name);
    if (record != nullptr && passed_on_native(*record, options)) return name;
  }
  throw Failure(StatusCode::kGraphUnavailable,
                "no fusion graph of this bundle has passed parity on the native kernels; prove one with "
                "`dmdkit check BUNDLE --data FEATURES --backend native`, or name one yourself (graph='fp32')");
}

[[noreturn]] void fail(int code, const char* error) { throw backend_failure(code, error); }

dmdkit_backend_open_args args_of(const std::string& graph, const Options& options,
                                 const std::vector<dmdkit_backend_entry_pair>& provider_options) {
  dmdkit_backend_open_args args{};
  args.struct_size = sizeof args;
  args.graph = graph.c_str();
  args.device = options.device == "auto" ? "cpu" : options.device.c_str();
  args.threads = options.threads;
  args.spin = options.spin ? static_cast<int>(*options.spin) : -1;
  args.affinity = options.affinity.c_str();
  args.provider_options = provider_options.data();
  args.provider_option_count = provider_options.size();
  return args;
}

dmdkit_backend_session* open_backend(const dmdkit_backend_vtable& table, const dmdkit_backend_open_args& args) {
  char error[kErrorBytes] = "";
  dmdkit_backend_session* session = nullptr;
  const int code = table.open(&args, &session, error, sizeof error);
  if (code != DMDKIT_BACKEND_OK) fail(code, error);
  return session;
}

dmdkit_backend_session* open_model(const dmdkit_backend_vtable& table, const Bundle& bundle, const GraphRecord& record,
                                   dmdkit_backend_open_args args) {
  const Bytes model = bundle.read(record.file);
  const std::vector<dmdkit_backend_entry_pair> session_options = pairs_of(record.session_options);
  args.model = model.data();
  args.model_bytes = model.size();
  args.session_options = session_options.data();
  args.session_option_count = session_options.size();
  return open_backend(table, args);
}

}  // namespace

bool passed_on_native(const GraphRecord& record, const Options& options) {
  const std::string version = load_backend(options.backend, options.backend_directory).describe();
  const bool narrow = version.find("7-bit") != std::string::npos;
  const std::string proof = narrow && record.precision != "fp32" ? "native-7bit" : kNative;
  return std::find(record.passed_on.begin(), record.passed_on.end(), proof) != record.passed_on.end();
}

Failure backend_failure(int code, const char* error) {
  const StatusCode status = code == DMDKIT_BACKEND_NO_DEVICE   ? StatusCode::kBackendUnavailable
                            : code == DMDKIT_BACKEND_NO_MEMORY ? StatusCode::kOutOfMemory
                                                               : StatusCode::kBackendFailed;
  return {status, printable(error)};
}

dmdkit_backend_session* open_steps_of(const dmdkit_backend_vtable& table, const Bundle& bundle, const std::string& name,
                                      const std::string& fusion, const Options& options) {
  const Bytes step_model = bundle.read(bundle.manifest().find_graph(name)->file);
  dmdkit_backend_open_args args = args_of(name, options, {});
  args.step_model = step_model.data();
  args.step_model_bytes = step_model.size();
  return open_model(table, bundle, *bundle.manifest().find_graph(fusion), args);
}

Session::Session(const Bundle& bundle, const std::string& name, const Options& options)
    : table_(load_backend(backend_for(bundle, name, options), options.backend_directory)),
      name_(name),
      memory_(nullptr, &free_floats),
      fixed_memory_(nullptr, &free_floats) {
  const GraphRecord* record = bundle.manifest().find_graph(name);
  if (record == nullptr) {
    throw Failure(StatusCode::kGraphUnavailable, bundle.path() + ": no graph " + in_quotes(name));
  }
  const std::vector<dmdkit_backend_entry_pair> provider_options = pairs_of(options.provider_options);
  dmdkit_backend_open_args args = args_of(name_, options, provider_options);
  if (runs_engine()) {
    open_engine(bundle, args);
  } else {
    session_ = open_model(table_, bundle, *record, args);
  }
  describe();
}

Session::Session(const dmdkit_backend_vtable& table, std::string name, dmdkit_backend_session* session)
    : table_(table),
      name_(std::move(name)),
      session_(session),
      memory_(nullptr, &free_floats),
      fixed_memory_(nullptr, &free_floats) {
  describe();
}

std::unique_ptr<Session> Session::share() const {
  const bool older = table_.struct_size < offsetof(dmdkit_backend_vtable, share) + sizeof table_.share;
  if (older || table_.share == nullptr) return nullptr;
  char error[kErrorBytes] = "";
  dmdkit_backend_session* other = nullptr;
  const int code = table_.share(session_, &other, error, sizeof error);
  if (code != DMDKIT_BACKEND_OK) fail(code, error);
  return std::unique_ptr<Session>(new Session(table_, name_, other));
}

void Session::describe() {
  try {
    describe(false, inputs_);
    describe(true, outputs_);
    place(false, 1, fixed_memory_);
  } catch (...) {
    table_.close(session_);
    throw;
  }
}

dmdkit_backend_session* open_model_of(const dmdkit_backend_vtable& table, const Bundle& bundle, const std::string& name,
                                      const Options& options, bool tokens) {
  const GraphRecord* record = bundle.manifest().find_graph(name);
  if (record == nullptr) {
    throw Failure(StatusCode::kGraphUnavailable, bundle.path() + ": no graph " + in_quotes(name));
  }
  const std::vector<dmdkit_backend_entry_pair> provider_options = pairs_of(options.provider_options);
  dmdkit_backend_open_args args = args_of(name, options, provider_options);
  args.tokens = tokens ? 1 : 0;
  return open_model(table, bundle, *record, args);
}

// The first engine that fits; if none does, the first reason.
void Session::open_engine(const Bundle& bundle, dmdkit_backend_open_args& args) {
  std::vector<std::string> refused;
  StatusCode code = StatusCode::kGraphUnavailable;
  for (const Engine& engine : engines_of(bundle, name_, refused)) {
    try {
      const Bytes plan = read_plan(bundle, engine);
      std::vector<const char*> capabilities;
      for (const std::string& capability : engine.record.compute_capabilities) capabilities.push_back(capability.c_str());
      dmdkit_backend_engine given{};
      given.name = engine.name.c_str();
      given.flavour = engine.record.flavour.c_str();
      given.version = engine.record.version.c_str();
      given.compute_capabilities = capabilities.data();
      given.compute_capability_count = capabilities.size();
      given.gpu = engine.record.gpu ? engine.record.gpu->c_str() : nullptr;
      given.plan = plan.data();
      given.plan_bytes = plan.size();
      args.engine = &given;
      session_ = open_backend(table_, args);
      return;
    } catch (const Failure& cause) {
      if (refused.empty()) code = cause.status().code();
      refused.emplace_back(cause.what());
    }
  }
  throw Failure(code,
                refused.empty() ? "the bundle has no engine for " + name_ + "; make one with `dmdkit build`" : refused[0]);
}

std::string Session::backend() const {
  const char* note = table_.note != nullptr ? table_.note(session_) : nullptr;
  return std::string(table_.describe()) + (note != nullptr ? " (" + printable(note) + ")" : "");
}

Session::~Session() { table_.close(session_); }

void Session::describe(bool outputs, std::vector<Port>& ports) {
  const std::size_t count = outputs ? table_.output_count(session_) : table_.input_count(session_);
  std::size_t total = 0;
  const bool steps = name_.rfind("stream.", 0) == 0;
  if (count == 0 || count > kMaxPorts) throw Failure(StatusCode::kBundleDamaged, name_ + ": an ONNX graph of another kind");
  for (std::size_t i = 0; i < count; ++i) {
    dmdkit_backend_tensor tensor{};
    (outputs ? table_.output : table_.input)(session_, i, &tensor);
    Port port;
    port.name = tensor.name;
    port.values = 1;
    port.counted = false;
    bool good = tensor.rank >= 1 && (steps || tensor.shape[0] == -1);
    for (std::size_t axis = 0; good && axis < tensor.rank; ++axis) {
      const std::int64_t size = tensor.shape[axis];
      if (size == -1 && !port.counted) {
        port.counted = true;
        port.axis = axis;
        continue;
      }
      good = size > 0 && static_cast<std::uint64_t>(size) <= kMaxPortValues / port.values;
      if (!good) break;
      port.sizes.push_back(static_cast<std::size_t>(size));
      port.values *= static_cast<std::size_t>(size);
    }
    if (!good) {
      throw Failure(StatusCode::kBundleDamaged,
                    name_ + ": " + in_quotes(port.name) + " has no batch of any size first, or no fixed sizes after it");
    }
    // All together, because a graph may have outputs that nobody asks for, and each gets a buffer.
    total += port.values;
    if (total > kMaxPortValues) {
      throw Failure(StatusCode::kBundleDamaged,
                    name_ + ": more than " + std::to_string(kMaxPortValues) + " values per sample go in or come out");
    }
    ports.push_back(std::move(port));
  }
}

const Port* Session::find_input(const std::string& port) const noexcept { return find_port(inputs_, port); }
const Port* Session::find_output(const std::string& port) const noexcept { return find_port(outputs_, port); }

// Zeros for every port that counts samples or steps, or for every one that does not.
void Session::place(bool counted, std::size_t batch, Memory& memory) {
  std::size_t total = 0;
  for (const auto* ports : {&inputs_, &outputs_}) {
    for (const Port& port : *ports) total += port.counted == counted ? padded(batch * port.values) : 0;
  }
  if (total == 0) return;
  void* zeros = nullptr;
  if (::posix_memalign(&zeros, kAlignmentBytes, total * sizeof(float)) != 0) throw std::bad_alloc();
  std::memset(zeros, 0, total * sizeof(float));
  memory.reset(static_cast<float*>(zeros));
  float* at = memory.get();
  for (auto* ports : {&inputs_, &outputs_}) {
    for (Port& port : *ports) {
      if (port.counted != counted) continue;
      port.buffer = at;
      at += padded(batch * port.values);
    }
  }
}

void Session::bind(std::size_t batch) {
  if (batch == batch_) return;
  Memory old(nullptr, &free_floats);  // freed when the backend has let go of it
  if (batch > capacity_) {
    Memory larger(nullptr, &free_floats);
    place(true, batch, larger);
    old = std::move(memory_);
    memory_ = std::move(larger);
    capacity_ = batch;
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

bool takes_engines(const Options& options) {
  return load_backend(options.backend, options.backend_directory).takes_engines != 0;
}

std::unique_ptr<Session> open_session(const Bundle& bundle, const std::string& kind, const std::string& wanted,
                                      const Options& options) {
  if (options.backend == kNative && kind == "fusion" && wanted.empty()) {
    return std::make_unique<Session>(bundle, proven_on_native(bundle.manifest(), options), options);
  }
  if (!takes_engines(options)) {
    return std::make_unique<Session>(bundle, choose_graph(bundle.manifest(), kind, wanted), options);
  }
  if (options.device == "cpu") {
    throw Failure(StatusCode::kInvalidInput,
                  "device='cpu': the backend " + in_quotes(options.backend) + " runs on a GPU; use device='auto'");
  }
  std::optional<Failure> first;
  for (const std::string& name : engine_graphs(bundle.manifest(), kind, wanted)) {
    try {
      return std::make_unique<Session>(bundle, name, options);
    } catch (const Failure& cause) {
      if (!first || first->status().code() == StatusCode::kGraphUnavailable) first = cause;  // "no engine" says least
    }
  }
  throw *first;
}

}  // namespace dmdkit
