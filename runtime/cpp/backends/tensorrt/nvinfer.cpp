// The real platform: CUDA's runtime API and a TensorRT library, 10.3 to 11 or TensorRT-RTX, whose headers this file is
// compiled with. Only names that exist in all of them are used.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "dmdkit/backend.h"
#include "platform.hpp"

#ifndef DMDKIT_TENSORRT_FLAVOUR
#error "the build says which library this is: tensorrt or tensorrt_rtx"
#endif

namespace dmdkit_tensorrt {
namespace {

constexpr std::size_t kSaidBytes = 400;

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const int code = status == cudaErrorMemoryAllocation ? DMDKIT_BACKEND_NO_MEMORY : DMDKIT_BACKEND_FAILED;
  throw Problem(code, std::string(call) + " failed: CUDA error " + std::to_string(static_cast<int>(status)) + " (" +
                          cudaGetErrorName(status) + ")");
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream); }

class CudaDevice final : public Device {
 public:
  Gpu gpu() override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
      throw Problem(DMDKIT_BACKEND_NO_DEVICE, std::string("no NVIDIA driver or GPU: ") +
                                                  (status != cudaSuccess ? cudaGetErrorString(status) : "none is listed"));
    }
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    Gpu found;
    found.name = properties.name;
    found.capability = std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) + "." +
                       std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device));
    found.integrated = attribute(cudaDevAttrIntegrated, device) != 0;
    return found;
  }

  void* pinned(std::size_t bytes, bool mapped) override {
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, mapped ? cudaHostAllocMapped : cudaHostAllocDefault), "cudaHostAlloc");
    return memory;
  }

  void* device_address(void* mapped) override {
    void* address = nullptr;
    check(cudaHostGetDevicePointer(&address, mapped, 0), "cudaHostGetDevicePointer");
    return address;
  }

  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    return memory;
  }

  void free_pinned(void* memory) noexcept override { (void)cudaFreeHost(memory); }
  void free(void* memory) noexcept override { (void)cudaFree(memory); }

  Stream create_stream() override {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream;
  }

  void destroy_stream(Stream stream) noexcept override { (void)cudaStreamDestroy(stream_of(stream)); }
  void synchronize(Stream stream) override { check(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize"); }

  void to_device(void* target, const void* source, std::size_t bytes, Stream stream) override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream_of(stream)), "cudaMemcpyAsync");
  }

  void to_host(void* target, const void* source, std::size_t bytes, Stream stream) override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream_of(stream)), "cudaMemcpyAsync");
  }

  void begin_capture(Stream stream) override {
    check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }

  Graph end_capture(Stream stream) override {
    cudaGraph_t recorded = nullptr;
    check(cudaStreamEndCapture(stream_of(stream), &recorded), "cudaStreamEndCapture");
    cudaGraphExec_t ready = nullptr;
    const cudaError_t status = cudaGraphInstantiateWithFlags(&ready, recorded, 0);
    (void)cudaGraphDestroy(recorded);
    check(status, "cudaGraphInstantiateWithFlags");
    return ready;
  }

  void abandon_capture(Stream stream) noexcept override {
    cudaGraph_t recorded = nullptr;
    if (cudaStreamEndCapture(stream_of(stream), &recorded) == cudaSuccess && recorded != nullptr) {
      (void)cudaGraphDestroy(recorded);
    }
    (void)cudaGetLastError();
  }

  void launch(Graph graph, Stream stream) override {
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)), "cudaGraphLaunch");
  }

  void destroy_graph(Graph graph) noexcept override { (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }
};

// Keeps the first error, which is the cause; TensorRT may log from threads of its own.
class Log final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR || text == nullptr) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (said_.empty()) said_ = std::string(text).substr(0, kSaidBytes);
    } catch (...) {  // without memory the reason is lost, not the program
    }
  }

  std::string said() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return said_.empty() ? "it gave no reason" : said_;
  }

 private:
  std::mutex mutex_;
  std::string said_;
};

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(std::min<std::size_t>(shape.size(), nvinfer1::Dims::MAX_DIMS));
  for (std::int32_t i = 0; i < dims.nbDims; ++i) dims.d[i] = shape[static_cast<std::size_t>(i)];
  return dims;
}

class NvEngine final : public Engine {
 public:
  NvEngine(const void* plan, std::size_t plan_bytes, const std::string& who) {
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_ != nullptr) engine_.reset(runtime_->deserializeCudaEngine(plan, plan_bytes));
    if (engine_ != nullptr) context_.reset(engine_->createExecutionContext());
    if (context_ == nullptr) throw Problem(DMDKIT_BACKEND_FAILED, who + " cannot open the engine: " + log_.said());
  }

  std::vector<EngineTensor> tensors() const override {
    std::vector<EngineTensor> found;
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      EngineTensor tensor;
      tensor.name = name;
      tensor.input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      tensor.float_on_device = engine_->getTensorDataType(name) == nvinfer1::DataType::kFLOAT &&
                               engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kDEVICE;
      const nvinfer1::Dims dims = engine_->getTensorShape(name);
      for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) tensor.shape.push_back(dims.d[axis]);
      if (tensor.input && dims.nbDims > 0) {
        const bool dynamic = dims.d[0] < 0;
        const auto batch = [&](nvinfer1::OptProfileSelector which) {
          const nvinfer1::Dims profile = engine_->getProfileShape(name, 0, which);
          return dynamic && profile.nbDims > 0 ? profile.d[0] : dims.d[0];
        };
        tensor.smallest_batch = batch(nvinfer1::OptProfileSelector::kMIN);
        tensor.largest_batch = batch(nvinfer1::OptProfileSelector::kMAX);
      }
      found.push_back(std::move(tensor));
    }
    return found;
  }

  bool set_address(const std::string& tensor, void* device) override {
    return context_->setTensorAddress(tensor.c_str(), device);
  }

  bool set_input_shape(const std::string& tensor, const std::vector<std::int64_t>& shape) override {
    return context_->setInputShape(tensor.c_str(), dims_of(shape));
  }

  bool enqueue(Stream stream) override { return context_->enqueueV3(stream_of(stream)); }

 private:
  Log log_;  // outlives what reports to it
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class NvLibrary final : public Library {
 public:
  std::string flavour() const override { return DMDKIT_TENSORRT_FLAVOUR; }

  std::string version() const override {
    return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
           std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
  }

  std::unique_ptr<Engine> open(const void* plan, std::size_t plan_bytes) override {
    const std::string who = flavour() + " " + version();
    if (getInferLibMajorVersion() != NV_TENSORRT_MAJOR) {  // another major version lays its classes out in another way
      throw Problem(DMDKIT_BACKEND_FAILED, who + " is here, this backend was compiled for version " +
                                               std::to_string(NV_TENSORRT_MAJOR) + "; build the backend on this machine");
    }
    return std::make_unique<NvEngine>(plan, plan_bytes, who);
  }
};

}  // namespace

Platform platform() {
  static CudaDevice* device = new CudaDevice;  // kept: CUDA's own end of process comes in any order
  static NvLibrary* library = new NvLibrary;
  return {*device, *library};
}

}  // namespace dmdkit_tensorrt
