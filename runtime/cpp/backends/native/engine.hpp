// One graph's session: scratch memory for one call at a time, and the order in which kernels make a score of features.
#ifndef DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_
#define DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "weights.hpp"

namespace dmdkit_native {

class Engine {
 public:
  explicit Engine(std::shared_ptr<const Weights> weights);

  // One sample: features (steps, features) of each modality -> `outputs` values. Allocates nothing; one call at a time.
  void run(const std::array<const float*, kModalityCount>& features, float* score);

  const Weights& weights() const { return *weights_; }

 private:
  // What the streams of one modality start from.
  struct Stream {
    int steps = 0;
    int vectors = 0;
    std::ptrdiff_t ld = 0;
    float* embedded = nullptr;      // [2 * width][ld]: exclusive, then common part
    float* inverse = nullptr;       // 1 / norm of each step of the exclusive part
    std::uint8_t* bytes = nullptr;  // INT8: the exclusive part's unit vectors
    float* scale = nullptr;
    float* present = nullptr;  // of projected steps
  };
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

  void decouple(int modality, const float* features);
  void run_layer(const Layer& layer, int channels, float* x, const Stream& target, const Source* source);
  void feed_forward(const Layer& layer, int channels, float* x, const Stream& target);
  void run_last(const LastLayer& layer, int channels, const float* x, const Stream& target, float* unit);
  void product(const Matrix& matrix, const float* x, const std::uint8_t* bytes, std::ptrdiff_t ld_x, const float* step_scale,
               int vectors, float* y, std::ptrdiff_t ld_y, bool add = false) const;

  std::shared_ptr<const Weights> weights_;
  const Kernels& kernels_;
  Arena scratch_;
  std::array<Stream, kModalityCount> streams_;
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
  float* crossed_ = nullptr;  // unit vectors of a target's two cross-modal streams
  float* last_queries_ = nullptr;
  float* head_query_ = nullptr;
  float* last_ = nullptr;  // vectors of one step
  std::array<float*, kModalityCount> last_memory_{};
  float* last_self_ = nullptr;
  float* gates_ = nullptr;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_
