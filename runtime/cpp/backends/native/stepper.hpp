// One state of a stream and what its steps are computed in (docs/streaming.md): keys and values of the steps before lie here,
// in the kernels' own layout. Weights are those of the fusion graph, shared with its windows, and the heads of the step graph.
#ifndef DMDKIT_BACKENDS_NATIVE_STEPPER_HPP_
#define DMDKIT_BACKENDS_NATIVE_STEPPER_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "heads.hpp"
#include "weights.hpp"

namespace dmdkit_native {

// What a step answers; any may be null. `edges` is not written without a GD-Unit.
struct StepAnswers {
  float* score = nullptr;   // (count, outputs)
  float* logits = nullptr;  // (count, 3, outputs)
  float* edges = nullptr;   // (count, 6)
};

// Allocates when it is made and never after.
class Stepper {
 public:
  // Throws dmdkit_plugin::Problem where the model is not causal behind its projection.
  Stepper(std::shared_ptr<const Weights> weights, std::shared_ptr<const Heads> heads);

  const std::shared_ptr<const Weights>& weights() const { return weights_; }
  const std::shared_ptr<const Heads>& heads() const { return heads_; }
  std::size_t capacity() const { return static_cast<std::size_t>(capacity_); }
  std::size_t kernel() const { return static_cast<std::size_t>(kernel_); }

  // Computes the projected steps place .. place + count - 1, at most capacity(), from those before and rows (kernel - 1 +
  // count, features) of each modality. It writes the state of these steps alone.
  void run(std::size_t place, std::size_t count, const std::array<const float*, kModalityCount>& rows,
           const StepAnswers& answers);

  // The state's tensors in the order and form of a snapshot: (steps, channels) each, keys and values in turn by level, then
  // those of the memory levels.
  std::size_t tensors() const { return 2 * (levels_.size() + memory_.size()); }
  std::size_t channels(std::size_t tensor) const;
  void read(std::size_t tensor, std::size_t steps, float* to) const;
  void write(std::size_t tensor, std::size_t steps, const float* from);

 private:
  // Keys or values of all streams at one level, [stream][step][channel of a head][head].
  struct Level {
    float* keys = nullptr;
    float* values = nullptr;
  };
  struct Rows {
    float* at = nullptr;
    std::ptrdiff_t ld = 0;
    float* row(int step) const { return at + step * ld; }
  };
  // What a product reads: values or levels, spread out, and what each step of it is to be multiplied with.
  struct Operand {
    float* x = nullptr;
    std::ptrdiff_t ld = 0;
    float* own_scale = nullptr;
    const float* scale = nullptr;
    bool positive = false;
  };

  Rows rows_of(int channels);
  Operand operand_of(int channels);
  void spread(const Rows& x, int channels, const float* inverse, bool positive, bool int8, Operand& to) const;
  void product(const Matrix& matrix, const Operand& operand, const Rows& y, bool relu = false, bool add = false) const;
  void norms(const Rows& x, int channels) const;
  void embed(int modality, const float* rows);
  void attend(const Level& level, int stream, int channels) const;
  void run_layer(const Layer& layer, int channels, const Rows& x, const Operand* source, const Level& level, int stream);
  void run_last(const LastLayer& layer, int channels, const Rows& x, const Rows& unit, const Level& level, int stream);
  void unit_vectors(const Rows& x, int channels) const;
  void run_streams();
  void read_out(std::size_t done, const StepAnswers& answers);
  void run_heads(std::size_t done, const StepAnswers& answers);
  const float* state_of(std::size_t tensor, int& width, int& streams) const;

  std::shared_ptr<const Weights> weights_;
  std::shared_ptr<const Heads> heads_;
  const Kernels& kernels_;
  Arena arena_;
  int capacity_ = 0;
  int kernel_ = 0;
  std::vector<Level> levels_;
  std::vector<Level> memory_;
  // Of the block of steps at hand.
  int place_ = 0;
  int count_ = 0;
  std::array<Rows, kModalityCount> embedded_;   // exclusive, then common part
  std::array<Operand, kModalityCount> source_;  // the exclusive part's unit vectors
  std::array<Rows, kModalityCount> crossed_;    // unit vectors of a target's two cross-modal streams
  std::array<Rows, kModalityCount> last_;       // of the memory streams
  Rows self_;                                   // of the three self streams, side by side
  Rows standard_, window_, projected_;
  Rows x_, q_, k_, v_, mixed_, hidden_, unit_, gated_, joined_;
  Operand own_;
  float* present_ = nullptr;
  float* inverse_ = nullptr;
  float* permuted_ = nullptr;
  float* permuted_query_ = nullptr;
  float* scores_ = nullptr;
  float* sums_ = nullptr;
  std::uint8_t* bytes_ = nullptr;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_STEPPER_HPP_
