// What dmdkit costs over ONNX Runtime's C API alone: the same library, graph, session options and samples, timed alternately in
// one process.   dmdkit_overhead BUNDLE [benchmark options]
#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "dmdkit/runtime.hpp"
#include "onnxruntime_c_api.h"
#include "telemetry.hpp"

namespace {

constexpr std::uint32_t kApiVersion = 11;
std::string bundle_path;

// Run() on plain tensors over the caller's memory: what an application without dmdkit would write.
class Raw {
 public:
  Raw(const dmdkit::Bundle& bundle, const std::string& graph) {
    void* library = ::dlopen("libonnxruntime.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) std::abort();
    api_ = reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(library, "OrtGetApiBase"))()->GetApi(kApiVersion);
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "raw", &env_));
    check(api_->CreateSessionOptions(&options_));
    check(api_->SetIntraOpNumThreads(options_, 1));
    check(api_->SetInterOpNumThreads(options_, 1));
    const dmdkit::GraphRecord* record = bundle.manifest().find_graph(graph);
    for (const auto& [key, value] : record->session_options) {
      check(api_->AddSessionConfigEntry(options_, key.c_str(), value.c_str()));
    }
    const dmdkit::Bytes model = bundle.read(record->file);
    check(api_->CreateSessionFromArray(env_, model.data(), model.size(), options_, &session_));
    check(api_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
  }

  float run(std::vector<std::vector<float>>& features, const std::array<dmdkit::InputInfo, 3>& infos) {
    OrtValue* inputs[3];
    const char* names[3];
    for (std::size_t i = 0; i < 3; ++i) {
      const std::int64_t shape[] = {1, static_cast<std::int64_t>(infos[i].steps), static_cast<std::int64_t>(infos[i].features)};
      names[i] = infos[i].name.c_str();
      check(api_->CreateTensorWithDataAsOrtValue(memory_, features[i].data(), features[i].size() * sizeof(float), shape, 3,
                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &inputs[i]));
    }
    const char* score = "score";
    OrtValue* output = nullptr;
    check(api_->Run(session_, nullptr, names, inputs, 3, &score, 1, &output));
    float* data = nullptr;
    check(api_->GetTensorMutableData(output, reinterpret_cast<void**>(&data)));
    const float value = data[0];
    api_->ReleaseValue(output);
    for (OrtValue* input : inputs) api_->ReleaseValue(input);
    return value;
  }

 private:
  void check(OrtStatus* status) const {
    if (status == nullptr) return;
    std::fprintf(stderr, "%s\n", api_->GetErrorMessage(status));
    std::abort();
  }

  const OrtApi* api_ = nullptr;
  OrtEnv* env_ = nullptr;
  OrtSessionOptions* options_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
};

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// One iteration runs both, in turn; the counters are the medians and their ratio, the figure that matters.
void overhead(benchmark::State& state, const std::string& graph) {
  dmdkit::Options options;
  options.graph = graph;
  auto runtime = dmdkit::Runtime::open(bundle_path, options);
  if (!runtime) return state.SkipWithError(runtime.status().message().c_str());
  Raw raw(dmdkit::Bundle::open(bundle_path), runtime->graph());
  std::vector<std::vector<float>> features;
  for (const dmdkit::InputInfo& info : runtime->inputs()) features.emplace_back(info.steps * info.features, 0.1F);
  const dmdkit::Inputs inputs{features[0], features[1], features[2]};
  std::vector<double> ours, theirs;
  using Clock = std::chrono::steady_clock;
  for (auto _ : state) {
    const auto start = Clock::now();
    benchmark::DoNotOptimize(runtime->predict(inputs)->score[0]);
    const auto middle = Clock::now();
    benchmark::DoNotOptimize(raw.run(features, runtime->inputs()));
    const auto end = Clock::now();
    ours.push_back(std::chrono::duration<double, std::micro>(middle - start).count());
    theirs.push_back(std::chrono::duration<double, std::micro>(end - middle).count());
  }
  state.counters["dmdkit_us"] = median(ours);
  state.counters["raw_us"] = median(theirs);
  state.counters["ratio"] = median(ours) / median(theirs);
}

BENCHMARK_CAPTURE(overhead, fp32, std::string("fp32"))->Iterations(2000)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(overhead, int8_cpu, std::string("int8-cpu"))->Iterations(2000)->Unit(benchmark::kMicrosecond);

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: dmdkit_overhead BUNDLE [benchmark options]\n"), 1;
  dmdkit::switch_off_onnxruntime_telemetry();
  bundle_path = argv[1];
  argv[1] = argv[0];
  int rest = argc - 1;
  benchmark::Initialize(&rest, argv + 1);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
