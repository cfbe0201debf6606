// The weights of one graph, packed for one instruction set. Made once and shared by all sessions of the graph in a process.
#ifndef DMDKIT_BACKENDS_NATIVE_WEIGHTS_HPP_
#define DMDKIT_BACKENDS_NATIVE_WEIGHTS_HPP_

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "onnx_file.hpp"
#include "plan.hpp"

namespace dmdkit_native {

// Memory handed out in the order it was asked for, aligned, zeroed, and given back all at once.
class Arena {
 public:
  template <typename T>
  T* make(std::size_t count) {
    return static_cast<T*>(bytes(count * sizeof(T)));
  }
  std::size_t size_bytes() const { return total_; }

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  void* bytes(std::size_t size);

  std::vector<std::unique_ptr<void, Free>> blocks_;
  unsigned char* at_ = nullptr;
  std::size_t left_ = 0;
  std::size_t total_ = 0;
};

struct Layer {
  Matrix query;  // scaled so that scores are powers of two
  Matrix key;
  Matrix value;
  Matrix out;
  Matrix fc1;
  Matrix fc2;
};

// The last layer of a self-attending stream, for its last step alone (export/channel_major.py: LastLayer).
struct LastLayer {
  Dense query;                          // scaled as in Layer
  std::vector<Dense> query_for_source;  // of each head
  std::vector<Dense> value;             // of each head
  Dense out;
  Dense fc1;
  Dense fc2;
};

struct Front {
  const float* mean = nullptr;  // null: features come as they are
  const float* inverse_scale = nullptr;
  bool projects = false;
  Matrix project;
  Matrix encode;
  const float* positions = nullptr;  // [2 * width][padded steps]
};

// One cross-modal stream.
struct Crossed {
  int target = 0;
  int source = 0;
  std::vector<Layer> layers;
};

// A self or memory stream.
struct Alone {
  Matrix input;                      // memory only
  const float* positions = nullptr;  // memory only: [2 * width][padded steps]
  std::vector<Layer> layers;
  LastLayer last;
};

struct Weights {
  Weights(const OnnxFile& file, const Kernels& kernels);
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  const Kernels& kernels;
  const Plan plan;
  bool int8 = false;  // products of streams are computed in INT8
  std::array<Front, kModalityCount> front;
  std::vector<Crossed> crossed;  // two for each target, in the order in which its memory block reads them
  std::array<Alone, kModalityCount> self;
  std::array<Alone, kModalityCount> memory;
  std::array<Dense, kModalityCount> gate;
  Dense common_gate;
  Dense hidden;
  Dense out;
  Arena arena;

  // Steps of a stream rounded up to whole vectors.
  int padded(int steps) const { return (steps + kernels.lanes - 1) / kernels.lanes * kernels.lanes; }
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_WEIGHTS_HPP_
