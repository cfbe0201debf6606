// What the engine session needs of CUDA and of a TensorRT library, so that its logic is tested without either. The real ones
// are in nvinfer.cpp; tests have their own.
#ifndef DMDKIT_BACKENDS_TENSORRT_PLATFORM_HPP_
#define DMDKIT_BACKENDS_TENSORRT_PLATFORM_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../plugin.hpp"

namespace dmdkit_tensorrt {

using dmdkit_plugin::Problem;

struct Gpu {
  std::string name;
  std::string capability;   // "8.7"
  bool integrated = false;  // shares memory with the CPU, so buffers are mapped and nothing is copied
};

using Stream = void*;
using Graph = void*;

// CUDA calls; all throw Problem, but those that give something back.
class Device {
 public:
  virtual ~Device() = default;

  virtual Gpu gpu() = 0;
  virtual void* pinned(std::size_t bytes, bool mapped) = 0;
  virtual void* device_address(void* mapped) = 0;
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void free_pinned(void* memory) noexcept = 0;
  virtual void free(void* memory) noexcept = 0;

  virtual Stream create_stream() = 0;
  virtual void destroy_stream(Stream stream) noexcept = 0;
  virtual void synchronize(Stream stream) = 0;
  virtual void to_device(void* target, const void* source, std::size_t bytes, Stream stream) = 0;
  virtual void to_host(void* target, const void* source, std::size_t bytes, Stream stream) = 0;

  virtual void begin_capture(Stream stream) = 0;
  virtual Graph end_capture(Stream stream) = 0;              // ready to launch
  virtual void abandon_capture(Stream stream) noexcept = 0;  // whatever its state, and the error it left
  virtual void launch(Graph graph, Stream stream) = 0;
  virtual void destroy_graph(Graph graph) noexcept = 0;
};

// One input or output of an engine, as the engine itself describes it.
struct EngineTensor {
  std::string name;
  bool input = false;
  bool float_on_device = false;     // float32 in GPU memory, the only kind we bind
  std::vector<std::int64_t> shape;  // the batch is -1
  std::int64_t smallest_batch = 1;  // inputs: of the first optimisation profile
  std::int64_t largest_batch = 1;
};

// A deserialised engine with its execution context. The setters and enqueue answer whether TensorRT agreed.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::vector<EngineTensor> tensors() const = 0;
  virtual bool set_address(const std::string& tensor, void* device) = 0;
  virtual bool set_input_shape(const std::string& tensor, const std::vector<std::int64_t>& shape) = 0;
  virtual bool enqueue(Stream stream) = 0;
};

class Library {
 public:
  virtual ~Library() = default;
  virtual std::string flavour() const = 0;  // tensorrt or tensorrt_rtx
  virtual std::string version() const = 0;  // "10.3.0.26"
  // Throws Problem, with what the library said, for a plan it refuses.
  virtual std::unique_ptr<Engine> open(const void* plan, std::size_t plan_bytes) = 0;
};

struct Platform {
  Device& device;
  Library& library;
};

// The platform of this plug-in.
Platform platform();

}  // namespace dmdkit_tensorrt

#endif  // DMDKIT_BACKENDS_TENSORRT_PLATFORM_HPP_
