// What one thread computes in, and the stages of a sample: embedding, streams, read-out. Weights are shared by all threads, a
// Sample by those that work on it, and a Worker's own memory by nobody.
#ifndef DMDKIT_BACKENDS_NATIVE_WORKER_HPP_
#define DMDKIT_BACKENDS_NATIVE_WORKER_HPP_

#include <array>
#include <cstddef>
#include <cstdint>

#include "weights.hpp"

namespace dmdkit_native {

// What keys and values are made of: floats with a scale a step, and in INT8 bytes with theirs.
struct Source {
  const float* x = nullptr;
  const float* inverse = nullptr;
  const std::uint8_t* bytes = nullptr;
  const float* scale = nullptr;
  int steps = 0;
  int vectors = 0;
  std::ptrdiff_t ld = 0;
};

// One sample on its way: what one stage leaves for others.
struct Sample {
  explicit Sample(const Weights& weights);

  // What the streams of one modality start from.
  struct Embedded {
    int steps = 0;
    int last = 0;  // the step that is read
    int vectors = 0;
    std::ptrdiff_t ld = 0;
    float* x = nullptr;             // [2 * width][ld]: exclusive, then common part
    float* inverse = nullptr;       // 1 / norm of each step of the exclusive part
    std::uint8_t* bytes = nullptr;  // INT8: the exclusive part's unit vectors
    float* scale = nullptr;
    float* present = nullptr;  // of projected steps
    float* crossed = nullptr;  // [2 * width][ld]: unit vectors of the two cross-modal streams of this target
    float* memory = nullptr;   // last step of the memory stream

    Source source() const { return {x, inverse, bytes, scale, steps, vectors, ld}; }
  };

  // The last of the projected steps that count; the first is 1.
  void read_after(int projected) {
    for (Embedded& modality : modalities) modality.last = projected - 1;
  }

  std::array<Embedded, kModalityCount> modalities;
  float* self = nullptr;  // last steps of the self streams, one after the other

 private:
  Arena arena_;
};

// Allocates when it is made and never after.
class Worker {
 public:
  explicit Worker(const Weights& weights);

  // Raw features (steps, features) of one modality -> its embedded part of the sample.
  void embed(Sample& sample, int modality, const float* features);
  // The stream of a modality over itself. Needs its embedding.
  void run_self(Sample& sample, int modality);
  // One of the two cross-modal streams of a target. Needs the embeddings of target and source.
  void run_crossed(Sample& sample, int target, int half);
  // The memory stream of a target. Needs its two cross-modal streams.
  void run_memory(Sample& sample, int target);
  // Gates and output layers. Needs everything above.
  void read_out(Sample& sample, float* score);

 private:
  void run_layer(const Layer& layer, int channels, float* x, const Sample::Embedded& target, const Source* source);
  void feed_forward(const Layer& layer, int channels, float* x, const Sample::Embedded& target);
  void run_last(const LastLayer& layer, int channels, const float* x, const Sample::Embedded& target, float* unit);
  // What a matrix is multiplied with: `x`, or `bytes` where the matrix holds levels; each step of the product times `scale`.
  struct Operand {
    const float* x;
    const std::uint8_t* bytes;
    std::ptrdiff_t ld;
    const float* scale;
  };
  // What follows a product; as in LinearCall.
  struct Epilogue {
    bool relu = false;
    bool add = false;
    bool positive = false;
    float* step_maximum = nullptr;
  };
  void product(const Matrix& matrix, const Operand& operand, int vectors, float* y, std::ptrdiff_t ld_y,
               const Epilogue& epilogue) const;
  void product(const Matrix& matrix, const Operand& operand, int vectors, float* y, std::ptrdiff_t ld_y) const {
    product(matrix, operand, vectors, y, ld_y, Epilogue{});
  }

  const Weights& weights_;
  const Kernels& kernels_;
  Arena scratch_;
  float* raw_ = nullptr;               // features, channel-major
  float* standardised_ = nullptr;      // INT8: rows of standardised features
  std::uint8_t* raw_bytes_ = nullptr;  // INT8: features in fours, channel-major
  float* projected_ = nullptr;
  float* raw_present_ = nullptr;
  float* ones_ = nullptr;
  float* x_ = nullptr;
  float* q_ = nullptr;
  float* k_ = nullptr;
  float* v_ = nullptr;
  float* mixed_ = nullptr;
  float* inverse_ = nullptr;
  float* scores_ = nullptr;
  float* hidden_ = nullptr;
  std::uint8_t* bytes_ = nullptr;
  std::uint8_t* hidden_bytes_ = nullptr;
  float* scale_ = nullptr;
  float* hidden_scale_ = nullptr;
  float* step_maximum_ = nullptr;
  float* last_queries_ = nullptr;
  float* head_query_ = nullptr;
  float* last_ = nullptr;  // vectors of one step
  float* gates_ = nullptr;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_WORKER_HPP_
