// What goes into a Runtime and what comes out of it. Plain records and views; nothing here owns a graph.
#ifndef DMDKIT_TYPES_HPP_
#define DMDKIT_TYPES_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace dmdkit {

// A pointer with a length: what a function may read (float const) or write (float). It does not own the memory.
template <typename T>
class View {
 public:
  constexpr View() noexcept = default;
  constexpr View(T* data, std::size_t size) noexcept : data_(data), size_(size) {}

  // Any container with data() and size(), such as std::vector<float>, std::array or another View.
  template <typename Container,
            typename = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Container&>().data()), T*> &&
                                        std::is_convertible_v<decltype(std::declval<Container&>().size()), std::size_t>>>
  constexpr View(Container& container) noexcept : data_(container.data()), size_(container.size()) {}  // NOLINT

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

using FloatView = View<const float>;
using MutableFloatView = View<float>;

// The three modalities, always in this order; explain's own order is in Explanation and in the manifest.
inline constexpr std::size_t kModalities = 3;
inline constexpr std::size_t kEdges = 6;
inline constexpr std::array<const char*, kModalities> kModalityNames = {"text", "audio", "vision"};

// The token ids of one sentence, with or without padding on either side.
using TokenIds = View<const std::int64_t>;

// Raw features of one batch: each view holds batch * steps * features values, sample first, then step, then feature. A modality
// is absent when it is std::nullopt, which the runtime accepts only where the bundle was trained for it.
struct Inputs {
  std::optional<FloatView> text;
  std::optional<FloatView> audio;
  std::optional<FloatView> vision;
  std::size_t batch = 1;

  // Instead of `text`, where the bundle has a text encoder: `batch` sentences in UTF-8, or their token ids. The first of either
  // opens the encoder. A sentence longer than the encoder reads loses its end, and is counted.
  std::optional<View<const std::string_view>> words = std::nullopt;
  std::optional<View<const TokenIds>> token_ids = std::nullopt;
};

// What the bundle expects of one modality.
struct InputInfo {
  std::string name;
  std::size_t steps = 0;
  std::size_t features = 0;
  std::string padding_side;    // left, right, none or unknown; padding is steps whose features are all exactly zero
  bool may_be_absent = false;  // whether the model was trained without it now and then
};

// A modality whose values leave the training range: features computed differently on the robot are the commonest silent
// failure.
struct RangeAlarm {
  std::size_t modality = 0;  // index into kModalityNames
  double share = 0.0;        // of its values in the sample where it is largest, padding left out
};

// Called inside predict and explain, on the calling thread, with the modalities to report. It may ask the same Runtime for its
// stats; predict, explain and self_check answer kInvalidInput there. What it throws is counted, and the call goes on.
using OutOfRangeCallback = std::function<void(View<const RangeAlarm>)>;

// What a score means.
struct TaskInfo {
  std::string name;  // regression: one value; classification: one raw logit per class
  double low = 0.0;  // range of the labels; of regression alone
  double high = 0.0;
  std::vector<std::string> labels;  // names of the classes, in the order of the score; empty where the bundle has none
};

struct Options {
  std::string device = "auto";    // auto, cpu or cuda
  std::string graph;              // a precision (fp32, int8-cpu) or a full name; empty: the preferred one that passed parity
  int threads = 1;                // inside one prediction
  std::uint64_t deadline_us = 0;  // a slower predict counts as a deadline miss (it is not interrupted); 0: no deadline
  bool preload_explain = false;   // open the explain graph at once rather than at the first explain
  OutOfRangeCallback on_out_of_range;

  // Hints to the backend; one that does not know them ignores them.
  std::optional<bool> spin;  // whether idle worker threads spin: faster answers for a busy core
  std::string affinity;  // processors of the worker threads, in ONNX Runtime's form "1;2": one group per thread after the first
  std::map<std::string, std::string> provider_options;  // passed to the device's execution provider as they are

  std::string backend = "onnxruntime";  // libdmdkit_NAME.so is loaded when a graph is opened
  std::string backend_directory;        // where to look for it first; empty: beside libdmdkit.so, then the loader's own path
};

// What predict returns. `score` shows the runtime's own buffer and is valid until the next call on the same Runtime.
struct Prediction {
  FloatView score;  // batch * outputs values: regression value or raw class logits
  std::size_t batch = 0;
  std::size_t outputs = 0;
  double latency_ms = 0.0;  // inside predict
  bool deadline_missed = false;
  // Share of values outside the training range, in the sample where it is largest, where that is worth a look; else 0.
  std::array<double, kModalities> out_of_range{};
  std::size_t truncated = 0;  // sentences that were longer than the text encoder reads, and cut
};

// What explain returns; the views are valid until the next call on the same Runtime.
struct Explanation {
  FloatView score;         // (batch, outputs)
  FloatView logit_homo;    // (batch, 3, outputs): what each modality's common part says alone, in modality_order
  FloatView logit_hetero;  // the same for the exclusive part
  FloatView edges_homo;    // (batch, 6), in edge_order; empty for a bundle without GD-Units
  FloatView edges_hetero;
  std::size_t batch = 0;
  std::size_t outputs = 0;
  double latency_ms = 0.0;
};

// Where explain_into copies to; a view may be empty if its output is not wanted.
struct ExplanationBuffers {
  MutableFloatView score;
  MutableFloatView logit_homo;
  MutableFloatView logit_hetero;
  MutableFloatView edges_homo;
  MutableFloatView edges_hetero;
};

// Latencies of predict since open or reset_stats. The quantiles come from a histogram and are exact to 2 %.
struct Stats {
  std::uint64_t count = 0;
  double p50_ms = 0.0;
  double p90_ms = 0.0;
  double p99_ms = 0.0;
  double max_ms = 0.0;
  std::uint64_t deadline_misses = 0;
  std::uint64_t out_of_range = 0;       // calls of predict or explain whose inputs left the training range
  std::uint64_t callback_failures = 0;  // of these, calls whose on_out_of_range threw; they answered nevertheless
  std::uint64_t truncated = 0;          // sentences that predict and explain cut
};

// One graph against the outputs it gave when it was exported.
struct GraphCheck {
  std::string graph;
  double max_error = 0.0;  // fp32: divided by max(1, |recorded value|)
  double tolerance = 0.0;
  std::optional<double> correlation;  // of the scores, compressed graphs only
  bool passed = false;
  std::string worst_output;
};

struct SelfCheck {
  bool passed = false;
  std::size_t samples = 0;
  std::vector<GraphCheck> graphs;
};

}  // namespace dmdkit

#endif  // DMDKIT_TYPES_HPP_
