// ONNX Runtime behind the plug-in interface (src/backend_abi.h). Only this file sees its headers.
//
// The library is loaded by name rather than linked: its one symbol carries the version it was built as (VERS_1.31.1), so a
// linked plug-in would refuse the older library of a robot although the C API it asks for is there.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../../src/backend_abi.h"
#include "onnxruntime_c_api.h"

// Nothing newer than CUDA provider options (API 11) is used; ONNX Runtime 1.18 is the first that reads the bundle's IR 10.
#define DMDKIT_ORT_API_VERSION 11

struct dmdkit_backend_session {
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    OrtValue* value = nullptr;
  };
  OrtSession* session = nullptr;
  OrtIoBinding* binding = nullptr;
  OrtMemoryInfo* memory = nullptr;
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  std::string graph;
  bool on_device = false;
};

namespace {

using Session = dmdkit_backend_session;

struct Api {
  const OrtApi* ort = nullptr;
  OrtEnv* env = nullptr;
  std::string version;
  std::string problem;  // why ort is null
};

// Why something failed, with the code the core understands.
class Problem : public std::exception {
 public:
  Problem(int code, std::string text) : code_(code), text_(std::move(text)) {}
  int code() const noexcept { return code_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  int code_;
  std::string text_;
};

Api load_api() {
  Api api;
  void* library = nullptr;
  for (const char* name : {"libonnxruntime.so.1", "libonnxruntime.so"}) {
    if (library == nullptr) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    const char* cause = ::dlerror();
    api.problem = std::string("ONNX Runtime's library is not found: ") + (cause != nullptr ? cause : "");
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

template <typename Body>
int answered(char* error, std::size_t error_size, Body&& body) noexcept {
  try {
    body();
    return DMDKIT_BACKEND_OK;
  } catch (const Problem& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
    return problem.code();
  } catch (const std::bad_alloc&) {
    std::snprintf(error, error_size, "out of memory");
    return DMDKIT_BACKEND_NO_MEMORY;
  } catch (const std::exception& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
  } catch (...) {
    std::snprintf(error, error_size, "unknown failure");
  }
  return DMDKIT_BACKEND_FAILED;
}

void release_values(Session& session) {
  for (auto* tensors : {&session.inputs, &session.outputs}) {
    for (Session::Tensor& tensor : *tensors) {
      if (tensor.value != nullptr) api().ort->ReleaseValue(tensor.value);
      tensor.value = nullptr;
    }
  }
}

void close_session(Session* session) noexcept {
  if (session == nullptr) return;
  const OrtApi* ort = api().ort;
  if (session->binding != nullptr) ort->ReleaseIoBinding(session->binding);
  release_values(*session);
  if (session->memory != nullptr) ort->ReleaseMemoryInfo(session->memory);
  if (session->session != nullptr) ort->ReleaseSession(session->session);
  delete session;
}

struct CloseSession {
  void operator()(Session* session) const noexcept { close_session(session); }
};

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

Session::Tensor describe(const Session& session, std::size_t index, bool output) {
  const OrtApi* ort = api().ort;
  OrtAllocator* allocator = nullptr;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  char* name = nullptr;
  check(output ? ort->SessionGetOutputName(session.session, index, allocator, &name)
               : ort->SessionGetInputName(session.session, index, allocator, &name));
  Session::Tensor tensor;
  tensor.name = name;
  check(ort->AllocatorFree(allocator, name));
  OrtTypeInfo* type = nullptr;
  check(output ? ort->SessionGetOutputTypeInfo(session.session, index, &type)
               : ort->SessionGetInputTypeInfo(session.session, index, &type));
  const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> owner(
      type, [](OrtTypeInfo* value) { api().ort->ReleaseTypeInfo(value); });
  const OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to `type`
  check(ort->CastTypeInfoToTensorInfo(type, &info));
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  if (info != nullptr) check(ort->GetTensorElementType(info, &element));
  if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    throw Problem(DMDKIT_BACKEND_FAILED, session.graph + ": " + tensor.name + " is not a float32 tensor");
  }
  std::size_t rank = 0;
  check(ort->GetDimensionsCount(info, &rank));
  tensor.shape.resize(rank);
  check(ort->GetDimensions(info, tensor.shape.data(), rank));
  return tensor;
}

int open_session(const dmdkit_backend_open_args* args, Session** result, char* error, std::size_t error_size) noexcept {
  *result = nullptr;
  return answered(error, error_size, [&] {
    const OrtApi* ort = api().ort;
    if (ort == nullptr) throw Problem(DMDKIT_BACKEND_NO_DEVICE, api().problem);
    const SessionOptions options = make_options(*args);
    std::unique_ptr<Session, CloseSession> session(new Session);
    session->graph = args->graph;
    session->on_device = std::strcmp(args->device, "cpu") != 0;
    try {
      check(ort->CreateSessionFromArray(api().env, args->model, args->model_bytes, options.get(), &session->session));
    } catch (const Problem& problem) {
      std::string text = api().version;  // "onnxruntime 1.31.1" -> "ONNX Runtime 1.31.1", as the Python runtime says it
      text.replace(0, text.find(' '), "ONNX Runtime");
      throw Problem(problem.code(), text + " cannot load " + args->graph + ": " + problem.what());
    }
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &session->memory));
    check(ort->CreateIoBinding(session->session, &session->binding));
    std::size_t inputs = 0;
    std::size_t outputs = 0;
    check(ort->SessionGetInputCount(session->session, &inputs));
    check(ort->SessionGetOutputCount(session->session, &outputs));
    for (std::size_t i = 0; i < inputs; ++i) session->inputs.push_back(describe(*session, i, false));
    for (std::size_t i = 0; i < outputs; ++i) session->outputs.push_back(describe(*session, i, true));
    *result = session.release();
  });
}

void make_value(const Session& session, Session::Tensor& tensor, std::size_t batch, float* buffer) {
  std::vector<int64_t> shape = tensor.shape;
  if (shape.empty()) throw Problem(DMDKIT_BACKEND_FAILED, session.graph + ": " + tensor.name + " has no batch axis");
  shape[0] = static_cast<int64_t>(batch);
  std::size_t values = 1;
  for (const int64_t size : shape) values *= static_cast<std::size_t>(size);
  check(api().ort->CreateTensorWithDataAsOrtValue(session.memory, buffer, values * sizeof(float), shape.data(), shape.size(),
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &tensor.value));
}

int bind_session(Session* session, std::size_t batch, float* const* inputs, float* const* outputs, char* error,
                 std::size_t error_size) noexcept {
  return answered(error, error_size, [&] {
    const OrtApi* ort = api().ort;
    ort->ClearBoundInputs(session->binding);
    ort->ClearBoundOutputs(session->binding);
    release_values(*session);
    for (std::size_t i = 0; i < session->inputs.size(); ++i) {
      Session::Tensor& tensor = session->inputs[i];
      make_value(*session, tensor, batch, inputs[i]);
      check(ort->BindInput(session->binding, tensor.name.c_str(), tensor.value));
    }
    for (std::size_t i = 0; i < session->outputs.size(); ++i) {
      Session::Tensor& tensor = session->outputs[i];
      make_value(*session, tensor, batch, outputs[i]);
      check(ort->BindOutput(session->binding, tensor.name.c_str(), tensor.value));
    }
  });
}

int run_session(Session* session, char* error, std::size_t error_size) noexcept {
  const OrtApi* ort = api().ort;
  OrtStatus* status = nullptr;
  // Bound inputs of a device were copied when they were bound, so they are bound again to be copied again.
  for (std::size_t i = 0; status == nullptr && session->on_device && i < session->inputs.size(); ++i) {
    status = ort->BindInput(session->binding, session->inputs[i].name.c_str(), session->inputs[i].value);
  }
  if (status == nullptr) status = ort->RunWithBinding(session->session, nullptr, session->binding);
  if (status == nullptr && session->on_device) status = ort->SynchronizeBoundOutputs(session->binding);
  if (status == nullptr) return DMDKIT_BACKEND_OK;
  return answered(error, error_size, [&] {
    try {
      check(status);
    } catch (const Problem& problem) {
      throw Problem(problem.code(), session->graph + ": ONNX Runtime failed: " + problem.what());
    }
  });
}

std::size_t input_count(const Session* session) noexcept { return session->inputs.size(); }
std::size_t output_count(const Session* session) noexcept { return session->outputs.size(); }

void input(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const Session::Tensor& found = session->inputs[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

void output(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const Session::Tensor& found = session->outputs[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

const char* describe_backend() noexcept { return api().version.c_str(); }

const dmdkit_backend_vtable kTable = {DMDKIT_BACKEND_ABI_VERSION,
                                      sizeof(dmdkit_backend_vtable),
                                      &describe_backend,
                                      &open_session,
                                      &input_count,
                                      &output_count,
                                      &input,
                                      &output,
                                      &bind_session,
                                      &run_session,
                                      &close_session,
                                      0,
                                      nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t abi_version) {
  return abi_version == DMDKIT_BACKEND_ABI_VERSION ? &kTable : nullptr;
}
