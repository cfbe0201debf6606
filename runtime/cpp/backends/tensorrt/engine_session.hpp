// An engine that passed its preflight, with everything allocated and bound once: pinned host buffers, device buffers for the
// largest batch, one stream, and a CUDA graph of the current batch where it can be had.
#ifndef DMDKIT_BACKENDS_TENSORRT_ENGINE_SESSION_HPP_
#define DMDKIT_BACKENDS_TENSORRT_ENGINE_SESSION_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dmdkit/backend.h"
#include "platform.hpp"

namespace dmdkit_tensorrt {

// Whether two versions agree in every number that both have ("10.3.0" and "10.3.0.26" do), at least three.
bool same_version(const std::string& one, const std::string& other);

// Throws Problem with the first thing about the engine that does not fit library and GPU. Nothing was deserialised before.
void preflight(const dmdkit_backend_engine& engine, const Library& library, const Gpu& gpu);

class EngineSession {
 public:
  // One input or output and where it lives; memory is for the largest batch.
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;  // the batch is -1
    std::size_t row_bytes = 0;        // of one sample
    void* host = nullptr;
    void* device = nullptr;
    float* caller = nullptr;
  };

  // Checks, deserialises, allocates and binds. Throws Problem.
  EngineSession(Platform platform, const dmdkit_backend_engine& engine, const std::string& graph);
  ~EngineSession();
  EngineSession(const EngineSession&) = delete;
  EngineSession& operator=(const EngineSession&) = delete;

  const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
  const std::vector<Tensor>& outputs() const noexcept { return outputs_; }
  const std::string& note() const noexcept { return note_; }  // "CUDA graph", or "plain" and why

  // Sets the batch, runs once plainly, which capture needs, and captures. A batch above the engine's largest runs in parts,
  // plainly. Throws Problem.
  void bind(std::size_t batch, float* const* inputs, float* const* outputs);

  // From the caller's input buffers to its output buffers. Throws Problem; allocates nothing otherwise.
  void run();

 private:
  void describe();
  void allocate(Tensor& tensor);
  void release() noexcept;
  void set_shapes(std::size_t batch);
  void enqueue(std::size_t batch);
  void capture(std::size_t batch);
  void run_part(std::size_t first, std::size_t batch);

  Platform platform_;
  std::string name_;
  bool mapped_ = false;
  std::size_t largest_ = 1;
  std::size_t batch_ = 0;
  std::size_t shaped_ = 0;  // the batch the context was last given
  Stream stream_ = nullptr;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::unique_ptr<Engine> engine_;
  Graph graph_ = nullptr;
  std::string note_ = "plain";
};

}  // namespace dmdkit_tensorrt

#endif  // DMDKIT_BACKENDS_TENSORRT_ENGINE_SESSION_HPP_
