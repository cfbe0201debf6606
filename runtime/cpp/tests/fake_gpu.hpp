// A stand-in for CUDA and a TensorRT library: host memory, arithmetic of the fake backend, CUDA's rules about capture. A plan
// is a line of text:   plan [batch=N] [refuse] [double] score=1 | text=3x4 audio=3x2 ...
#ifndef DMDKIT_TESTS_FAKE_GPU_HPP_
#define DMDKIT_TESTS_FAKE_GPU_HPP_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../backends/tensorrt/platform.hpp"

namespace dmdkit_tensorrt {

class FakeDevice final : public Device {
 public:
  Gpu here{"Test GPU", "8.9", false};
  bool no_driver = false;
  bool capture_fails = false;
  int allocations_left = 1000;

  int copies = 0;
  int launches = 0;
  int live_streams = 0;
  int live_graphs = 0;
  std::map<void*, std::vector<char>> memory;

  // Does the work, or notes it while a capture runs.
  void submit(std::function<void()> work);

  Gpu gpu() override;
  void* pinned(std::size_t bytes, bool mapped) override;
  void* device_address(void* mapped) override { return mapped; }
  void* allocate(std::size_t bytes) override;
  void free_pinned(void* address) noexcept override { memory.erase(address); }
  void free(void* address) noexcept override { memory.erase(address); }
  Stream create_stream() override;
  void destroy_stream(Stream stream) noexcept override;
  void synchronize(Stream stream) override;
  void to_device(void* target, const void* source, std::size_t bytes, Stream stream) override;
  void to_host(void* target, const void* source, std::size_t bytes, Stream stream) override;
  void begin_capture(Stream stream) override;
  Graph end_capture(Stream stream) override;
  void abandon_capture(Stream stream) noexcept override;
  void launch(Graph graph, Stream stream) override;
  void destroy_graph(Graph graph) noexcept override;

 private:
  using Recording = std::vector<std::function<void()>>;
  std::unique_ptr<Recording> recording_;
};

class FakeLibrary final : public Library {
 public:
  explicit FakeLibrary(FakeDevice& device) : device_(device) {}

  std::string here = "1.7.1.116";
  std::string kind = "tensorrt_rtx";
  int opened = 0;

  std::string flavour() const override { return kind; }
  std::string version() const override { return here; }
  std::unique_ptr<Engine> open(const void* plan, std::size_t plan_bytes) override;

 private:
  FakeDevice& device_;
};

}  // namespace dmdkit_tensorrt

#endif  // DMDKIT_TESTS_FAKE_GPU_HPP_
