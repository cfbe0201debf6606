// A stream over an opened bundle: the exact answer at every step for the price of one step (docs/streaming.md).
//
//   auto stream = runtime->stream();
//   if (!stream) return report(stream.status().message());
//   auto answer = stream->push({text, audio, vision});    // one step; no allocation of dmdkit's after the first of a size
//   if (answer && answer->count > 0) use(answer->score[0]);   // the first kernel - 1 steps have no answer
//
// Streams are independent: many may run over one Runtime on different threads, and they share its weights. A stream keeps what
// it needs, so it outlives its Runtime. One stream may be shared by threads: calls are serialised by a lock inside it, and what
// push returns is valid until the next call on it; push_into copies under the lock. One that was moved from answers
// kInvalidInput.
#ifndef DMDKIT_STREAM_HPP_
#define DMDKIT_STREAM_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"

namespace dmdkit {

struct StreamOptions {
  // Past the longest length the model was trained at: stop, an error until reset; or window, where the newest half goes on.
  std::string past_limit = "stop";
  // What stands for a modality that is missing, late, early or repeated, in the order of kModalityNames: error; hold, its last
  // row; absent, zeros, where the model was trained without it.
  std::array<std::string, kModalities> missing = {"error", "error", "error"};
  std::optional<double> step_s;       // seconds between steps; none: times are only checked for their order
  std::optional<double> tolerance_s;  // how far a modality's time may be from its step's; none: half a step
};

// New steps. Each view holds count * features values, step first; std::nullopt: the modality is missing.
struct Steps {
  std::optional<FloatView> text;
  std::optional<FloatView> audio;
  std::optional<FloatView> vision;
  std::size_t count = 1;
  std::array<std::optional<double>, kModalities> time_s{};  // of a push of one step, in the order of kModalityNames
};

// What stands for a modality at the newest step.
enum class Filling : int { kNone = 0, kHold = 1, kAbsent = 2 };

// What the newest `count` of the pushed steps answer, oldest first; the views are valid until the next call on the stream.
struct StepAnswer {
  std::size_t count = 0;   // 0 while fewer steps were heard than the kernel needs
  FloatView score;         // (count, outputs)
  FloatView logit_hetero;  // (count, 3, outputs), in modality_order
  FloatView edges_hetero;  // (count, 6), in edge_order; empty for a bundle without GD-Units
  std::size_t outputs = 0;
  std::size_t steps = 0;    // how many of the newest steps the newest answer rests on: it is the model's for exactly those
  std::uint64_t heard = 0;  // steps taken since the last reset
  std::array<Filling, kModalities> filled{};  // in the order of kModalityNames
  // Per modality, the share of values outside the training range among the steps the newest answer rests on, as Prediction
  // has it of the same window; 0 where it is not worth a report, and before the first answer.
  std::array<double, kModalities> out_of_range{};
  double latency_ms = 0.0;
};

// Where push_into copies to; a view may be empty if its output is not wanted, and otherwise holds what the answers need or
// more.
struct StepBuffers {
  MutableFloatView score;
  MutableFloatView logit_hetero;
  MutableFloatView edges_hetero;
};

class DMDKIT_API Stream {
 public:
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  // The step graph that answers (stream.fp32).
  const std::string& graph() const noexcept;
  // What runs it, with its version.
  std::string backend() const;

  // Steps that one answer can rest on, the longest length the model was trained at; those at the start that have no answer.
  std::size_t limit() const noexcept;
  std::size_t unanswered() const noexcept;

  // What its answers mean where that needs saying, in a sentence; empty where not.
  const std::string& note() const noexcept;

  // Takes one step, or several at once, and says what they answer. A failure leaves what was pushed before as it was, and the
  // stream usable. Options::on_out_of_range of the runtime is called, from this thread, where the answer has something
  // out_of_range; what it throws does not cost the answer.
  Result<StepAnswer> push(const Steps& steps) noexcept;
  Result<StepAnswer> push_into(const Steps& steps, const StepBuffers& buffers) noexcept;

  // Steps taken since the last reset.
  std::uint64_t heard() const noexcept;

  // Forgets every step.
  Status reset() noexcept;

  // The state as bytes, the same in every language and backend; restore of any stream over the same bundle and precision takes
  // them, and refuses others as they are damaged, of another version or of another bundle.
  Result<std::vector<std::uint8_t>> snapshot() const noexcept;
  Status restore(View<const std::uint8_t> bytes) noexcept;

 private:
  friend class Runtime;
  class Impl;
  explicit Stream(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dmdkit

#endif  // DMDKIT_STREAM_HPP_
