// ONNX Runtime behind the plug-in interface (dmdkit/backend.h). Only this file sees its headers.
//
// The library is loaded by name rather than linked: its one symbol carries the version it was built as (VERS_1.31.1), so a
// linked plug-in would refuse the older library of a robot although the C API it asks for is there.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../../src/shared_library.hpp"
#include "../../src/telemetry.hpp"
#include "../plugin.hpp"
#include "huge_pages.hpp"
#include "onnxruntime_c_api.h"

// Nothing newer than CUDA provider options (API 11) is used; ONNX Runtime 1.18 is the first that reads the bundle's IR 10.
#define DMDKIT_ORT_API_VERSION 11

using dmdkit_plugin::Problem;

namespace {

struct Api {
  const OrtApi* ort = nullptr;
  OrtEnv* env = nullptr;
  std::string version;
  std::string problem;  // why ort is null
};

Api load_api() {
  dmdkit::switch_off_onnxruntime_telemetry();
  Api api;
  void* library = nullptr;
  for (const char* name : {"libonnxruntime.so.1", "libonnxruntime.so"}) {
    // The application may have loaded it already; otherwise the file is looked at first.
    if (library == nullptr) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    if (library != nullptr) break;
    const std::string file = dmdkit::find_library(name, reinterpret_cast<const void*>(&load_api));
    if (!file.empty() && !dmdkit::is_whole_elf(file)) {
      api.problem = "ONNX Runtime's library " + file + " is damaged; install it again";
      return api;
    }
    library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    const char* cause = ::dlerror();
    api.problem = std::string("ONNX Runtime's library is not found: ") + (cause != nullptr ? cause : "") +
                  "; put libonnxruntime.so.1 beside libdmdkit_onnxruntime.so, as `cmake --install` does with "
                  "DMDKIT_INSTALL_ONNXRUNTIME=ON, or name its folder in LD_LIBRARY_PATH";
    return api;
  }
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) {
    api.problem = "the library found is not ONNX Runtime";
    return api;
  }
  api.version = std::string("onnxruntime ") + base()->GetVersionString();
  const OrtApi* ort = base()->GetApi(DMDKIT_ORT_API_VERSION);
  if (ort == nullptr || ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "dmdkit", &api.env) != nullptr) {
    api.problem = api.version + " is too old or cannot start";
    return api;
  }
  api.ort = ort;
  return api;
}

// Loaded at the first use and kept, as its threads outlive any session.
const Api& api() {
  static const Api* loaded = new Api(load_api());
  return *loaded;
}

// First line, at most 300 characters, as the Python runtime reports it.
std::string first_line(const char* text) {
  const std::string whole = text != nullptr ? text : "";
  return whole.substr(0, std::min<std::size_t>(whole.find('\n'), 300));
}

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = first_line(api().ort->GetErrorMessage(status));
  api().ort->ReleaseStatus(status);
  throw Problem(DMDKIT_BACKEND_FAILED, text);
}

struct ReleaseOptions {
  void operator()(OrtSessionOptions* options) const noexcept { api().ort->ReleaseSessionOptions(options); }
};
using SessionOptions = std::unique_ptr<OrtSessionOptions, ReleaseOptions>;

void add_entry(const SessionOptions& options, const char* key, const char* value) {
  check(api().ort->AddSessionConfigEntry(options.get(), key, value));
}

void append_cuda(const SessionOptions& options, const dmdkit_backend_open_args& args) {
  const OrtApi* ort = api().ort;
  char** names = nullptr;
  int count = 0;
  check(ort->GetAvailableProviders(&names, &count));
  bool present = false;
  for (int i = 0; i < count; ++i) present = present || std::strcmp(names[i], "CUDAExecutionProvider") == 0;
  check(ort->ReleaseAvailableProviders(names, count));
  if (!present) throw Problem(DMDKIT_BACKEND_NO_DEVICE, "device='cuda': this ONNX Runtime has only cpu");
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  check(ort->CreateCUDAProviderOptions(&cuda));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
      cuda, [](OrtCUDAProviderOptionsV2* value) { api().ort->ReleaseCUDAProviderOptions(value); });
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (std::size_t i = 0; i < args.provider_option_count; ++i) {
    keys.push_back(args.provider_options[i].key);
    values.push_back(args.provider_options[i].value);
  }
  if (!keys.empty()) check(ort->UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
  check(ort->SessionOptionsAppendExecutionProvider_CUDA_V2(options.get(), cuda));
}

SessionOptions make_options(const dmdkit_backend_open_args& args) {
  const OrtApi* ort = api().ort;
  OrtSessionOptions* raw = nullptr;
  check(ort->CreateSessionOptions(&raw));
  SessionOptions options(raw);
  check(ort->SetIntraOpNumThreads(raw, args.threads));
  check(ort->SetInterOpNumThreads(raw, 1));
  check(ort->SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_ERROR));
  for (std::size_t i = 0; i < args.session_option_count; ++i) {
    add_entry(options, args.session_options[i].key, args.session_options[i].value);
  }
  if (args.spin >= 0) add_entry(options, "session.intra_op.allow_spinning", args.spin != 0 ? "1" : "0");
  if (args.affinity[0] != '\0') add_entry(options, "session.intra_op_thread_affinities", args.affinity);
  if (std::strcmp(args.device, "cuda") == 0) {
    append_cuda(options, args);
  } else {
    // The CPU provider has no options of its own; what is passed for it are session config entries.
    for (std::size_t i = 0; i < args.provider_option_count; ++i) {
      add_entry(options, args.provider_options[i].key, args.provider_options[i].value);
    }
  }
  return options;
}

}  // namespace

struct dmdkit_backend_session {
 public:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    OrtValue* value = nullptr;
    bool whole_numbers = false;  // int64 in the graph: what is bound is converted for every run
    const float* given = nullptr;
    std::vector<int64_t> converted;
  };

  static std::unique_ptr<dmdkit_backend_session> open(const dmdkit_backend_open_args& args) {
    const OrtApi* ort = api().ort;
    if (ort == nullptr) throw Problem(DMDKIT_BACKEND_NO_DEVICE, api().problem);
    const SessionOptions options = make_options(args);
    auto session = std::make_unique<dmdkit_backend_session>();
    session->graph_ = args.graph;
    session->on_device_ = std::strcmp(args.device, "cpu") != 0;
    session->tokens_ = args.tokens != 0;
    try {
      const dmdkit_onnxruntime::HugePages pages(session->on_device_ ? 0 : args.model_bytes);
      OrtSession* opened = nullptr;
      check(ort->CreateSessionFromArray(api().env, args.model, args.model_bytes, options.get(), &opened));
      session->session_.reset(opened, [](OrtSession* last) { api().ort->ReleaseSession(last); });
      pages.take_what_came();
    } catch (const Problem& problem) {
      std::string text = api().version;  // "onnxruntime 1.31.1" -> "ONNX Runtime 1.31.1", as the Python runtime says it
      text.replace(0, text.find(' '), "ONNX Runtime");
      throw Problem(problem.code(), text + " cannot load " + args.graph + ": " + problem.what());
    }
    session->prepare();
    return session;
  }

  // ONNX Runtime runs one session on several threads at once, each with a binding of its own.
  std::unique_ptr<dmdkit_backend_session> share() const {
    auto session = std::make_unique<dmdkit_backend_session>();
    session->graph_ = graph_;
    session->on_device_ = on_device_;
    session->tokens_ = tokens_;
    session->session_ = session_;
    session->prepare();
    return session;
  }

  dmdkit_backend_session() = default;
  dmdkit_backend_session(const dmdkit_backend_session&) = delete;
  dmdkit_backend_session& operator=(const dmdkit_backend_session&) = delete;
  ~dmdkit_backend_session() {
    const OrtApi* ort = api().ort;
    if (binding_ != nullptr) ort->ReleaseIoBinding(binding_);
    release_values();
    if (memory_ != nullptr) ort->ReleaseMemoryInfo(memory_);
  }

  const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
  const std::vector<Tensor>& outputs() const noexcept { return outputs_; }
  const char* note() const noexcept { return nullptr; }

  void bind(std::size_t batch, float* const* inputs, float* const* outputs) {
    const OrtApi* ort = api().ort;
    ort->ClearBoundInputs(binding_);
    ort->ClearBoundOutputs(binding_);
    release_values();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      make_value(inputs_[i], batch, inputs[i]);
      check(ort->BindInput(binding_, inputs_[i].name.c_str(), inputs_[i].value));
    }
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      make_value(outputs_[i], batch, outputs[i]);
      check(ort->BindOutput(binding_, outputs_[i].name.c_str(), outputs_[i].value));
    }
  }

  void run() {
    const OrtApi* ort = api().ort;
    OrtStatus* status = nullptr;
    for (Tensor& tensor : inputs_) {
      for (std::size_t i = 0; i < tensor.converted.size(); ++i) tensor.converted[i] = static_cast<int64_t>(tensor.given[i]);
    }
    // Bound inputs of a device were copied when they were bound, so they are bound again to be copied again.
    for (std::size_t i = 0; status == nullptr && on_device_ && i < inputs_.size(); ++i) {
      status = ort->BindInput(binding_, inputs_[i].name.c_str(), inputs_[i].value);
    }
    if (status == nullptr) status = ort->RunWithBinding(session_.get(), nullptr, binding_);
    if (status == nullptr && on_device_) status = ort->SynchronizeBoundOutputs(binding_);
    if (status == nullptr) return;
    try {
      check(status);
    } catch (const Problem& problem) {
      throw Problem(problem.code(), graph_ + ": ONNX Runtime failed: " + problem.what());
    }
  }

  // Binds nothing: the length changes from call to call.
  void run_tokens(std::size_t batch, std::size_t length, const std::int64_t* const* inputs, float* output) {
    const OrtApi* ort = api().ort;
    release_values();
    std::vector<const char*> names;
    std::vector<const OrtValue*> values;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const int64_t shape[] = {static_cast<int64_t>(batch), static_cast<int64_t>(length)};
      // ONNX Runtime takes a pointer that it may write to; it does not write to inputs.
      check(ort->CreateTensorWithDataAsOrtValue(memory_, const_cast<std::int64_t*>(inputs[i]),
                                                batch * length * sizeof(std::int64_t), shape, 2,
                                                ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &inputs_[i].value));
      names.push_back(inputs_[i].name.c_str());
      values.push_back(inputs_[i].value);
    }
    Tensor& given = outputs_.front();
    std::vector<int64_t> shape = given.shape;
    if (outputs_.size() != 1 || shape.size() != 3 || shape[2] < 1) {
      throw Problem(DMDKIT_BACKEND_FAILED, graph_ + " does not give one value for every feature of a token");
    }
    shape[0] = static_cast<int64_t>(batch);
    shape[1] = static_cast<int64_t>(length);
    const std::size_t bytes = batch * length * static_cast<std::size_t>(shape[2]) * sizeof(float);
    check(ort->CreateTensorWithDataAsOrtValue(memory_, output, bytes, shape.data(), shape.size(),
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &given.value));
    const char* name = given.name.c_str();
    OrtStatus* status = ort->Run(session_.get(), nullptr, names.data(), values.data(), values.size(), &name, 1, &given.value);
    release_values();
    try {
      check(status);
    } catch (const Problem& problem) {
      throw Problem(problem.code(), graph_ + ": ONNX Runtime failed: " + problem.what());
    }
  }

 private:
  void prepare() {
    const OrtApi* ort = api().ort;
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    check(ort->CreateIoBinding(session_.get(), &binding_));
    std::size_t inputs = 0;
    std::size_t outputs = 0;
    check(ort->SessionGetInputCount(session_.get(), &inputs));
    check(ort->SessionGetOutputCount(session_.get(), &outputs));
    for (std::size_t i = 0; i < inputs; ++i) inputs_.push_back(describe(i, false));
    for (std::size_t i = 0; i < outputs; ++i) outputs_.push_back(describe(i, true));
  }

  Tensor describe(std::size_t index, bool output) const {
    const OrtApi* ort = api().ort;
    OrtAllocator* allocator = nullptr;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    char* name = nullptr;
    check(output ? ort->SessionGetOutputName(session_.get(), index, allocator, &name)
                 : ort->SessionGetInputName(session_.get(), index, allocator, &name));
    Tensor tensor;
    tensor.name = name;
    check(ort->AllocatorFree(allocator, name));
    OrtTypeInfo* type = nullptr;
    check(output ? ort->SessionGetOutputTypeInfo(session_.get(), index, &type)
                 : ort->SessionGetInputTypeInfo(session_.get(), index, &type));
    const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> owner(
        type, [](OrtTypeInfo* value) { api().ort->ReleaseTypeInfo(value); });
    const OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to `type`
    check(ort->CastTypeInfoToTensorInfo(type, &info));
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    if (info != nullptr) check(ort->GetTensorElementType(info, &element));
    const bool token = tokens_ && !output;
    tensor.whole_numbers = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 && !output && !token;
    if (!tensor.whole_numbers &&
        element != (token ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)) {
      throw Problem(DMDKIT_BACKEND_FAILED,
                    graph_ + ": " + tensor.name + (token ? " is not an int64 tensor" : " is not a float32 tensor"));
    }
    std::size_t rank = 0;
    check(ort->GetDimensionsCount(info, &rank));
    tensor.shape.resize(rank);
    check(ort->GetDimensions(info, tensor.shape.data(), rank));
    return tensor;
  }

  void make_value(Tensor& tensor, std::size_t batch, float* buffer) const {
    std::vector<int64_t> shape = tensor.shape;
    std::size_t values = 1;
    for (int64_t& size : shape) {
      if (size == -1) size = static_cast<int64_t>(batch);
      values *= static_cast<std::size_t>(size);
    }
    if (tensor.whole_numbers) {
      tensor.given = buffer;
      tensor.converted.assign(values, 0);
      check(api().ort->CreateTensorWithDataAsOrtValue(memory_, tensor.converted.data(), values * sizeof(int64_t), shape.data(),
                                                      shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &tensor.value));
      return;
    }
    check(api().ort->CreateTensorWithDataAsOrtValue(memory_, buffer, values * sizeof(float), shape.data(), shape.size(),
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensor.value));
  }

  void release_values() noexcept {
    for (auto* tensors : {&inputs_, &outputs_}) {
      for (Tensor& tensor : *tensors) {
        if (tensor.value != nullptr) api().ort->ReleaseValue(tensor.value);
        tensor.value = nullptr;
      }
    }
  }

  std::shared_ptr<OrtSession> session_;
  OrtIoBinding* binding_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::string graph_;
  bool on_device_ = false;
  bool tokens_ = false;
};

namespace {

constexpr dmdkit_backend_vtable kTable =
    dmdkit_plugin::table_of<dmdkit_backend_session>([] { return api().version.c_str(); }, /*takes_engines=*/false);

}  // namespace

DMDKIT_BACKEND_DEFINE_ENTRY(kTable);
