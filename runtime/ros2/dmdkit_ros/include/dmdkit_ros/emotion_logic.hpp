// What the node does, without ROS: which features are taken, what is answered, and what the diagnostics say.
#ifndef DMDKIT_ROS_EMOTION_LOGIC_HPP_
#define DMDKIT_ROS_EMOTION_LOGIC_HPP_

#include <array>
#include <cstdint>
#include <dmdkit/runtime.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dmdkit_ros {

struct Settings {
  std::string bundle;
  dmdkit::Options runtime;
  bool self_check = true;           // replay the golden samples before the first prediction, and refuse to start if they differ
  std::uint32_t explain_every = 0;  // explain every so many predictions; 0: never
  double max_age_ms = 0.0;          // features older than this are dropped; 0: none are
  double max_words_age_ms = 0.0;    // a sentence older than this is forgotten; 0: it stands until the next one
};

// One modality as a message carries it. Text without values that is not absent is what was said last.
struct Modality {
  dmdkit::FloatView values;
  bool absent = false;
};

struct Sample {
  std::array<Modality, dmdkit::kModalities> modalities;  // text, audio, vision
  double age_ms = 0.0;                                   // now minus the message's stamp
};

// The age of a message: `now_ns` minus its stamp, which may be negative or in the future. In integers, as no stamp may throw.
double age_ms(std::int64_t now_ns, std::int32_t stamp_sec, std::uint32_t stamp_nanosec) noexcept;

// What became of one sample. The views are valid until the next call of handle.
struct Answer {
  enum class Outcome { kPredicted, kDropped, kFailed };
  Outcome outcome = Outcome::kFailed;
  dmdkit::Prediction prediction;  // if kPredicted
  bool explain_due = false;       // this sample's turn: ask for its explanation once the score is out
  std::string problem;            // if kDropped or kFailed
};

// The levels of diagnostic_msgs/DiagnosticStatus.
enum class Level : std::uint8_t { kOk = 0, kWarn = 1, kError = 2, kStale = 3 };

struct Report {
  Level level = Level::kStale;
  std::string message;
  std::vector<std::pair<std::string, std::string>> values;
};

class EmotionLogic {
 public:
  // Opens the bundle and, if asked for, checks it: with self_check this takes as long as predicting the golden samples.
  static dmdkit::Result<EmotionLogic> open(const Settings& settings) noexcept;

  const dmdkit::Runtime& runtime() const noexcept { return runtime_; }

  // Takes a sentence, for the samples that come without text of their own: false, and counted as a failure, where the bundle has
  // no text encoder to read it.
  bool say(std::string sentence, std::int64_t now_ns);

  // `now_ns`: the clock that `say` was told.
  Answer handle(const Sample& sample, std::int64_t now_ns = 0);

  // Explains a sample that was handled. The logits are in the order of the inputs (text, audio, vision) whatever the bundle's
  // own is; the views are valid until the next call.
  dmdkit::Result<dmdkit::Explanation> explain(const Sample& sample);

  // Samples that were never handled: a newer one was waiting behind them, or the middleware lost them.
  void add_superseded(std::uint64_t count) noexcept { counts_.superseded += count; }
  void add_lost(std::uint64_t count) noexcept { counts_.lost += count; }

  // A sample that failed outside this class.
  void add_failure(const std::string& problem);

  // What happened since the last report decides the level: an error if a sample failed, a warning if a deadline was missed or
  // samples were dropped, superseded, lost or outside the training range, stale if none came or the node is not active. The
  // problem it tells is forgotten afterwards.
  Report report(bool active = true);

  // The sizes that are expected, in a line for a log.
  std::string summary() const;

 private:
  EmotionLogic(dmdkit::Runtime runtime, const Settings& settings);

  // What the runtime is given; a sample without text of its own gets the sentence that stands.
  dmdkit::Inputs inputs_of(const Sample& sample) const noexcept;
  bool takes_words(const Sample& sample) const noexcept;
  dmdkit::FloatView in_input_order(dmdkit::FloatView logits, std::vector<float>& ordered) const;

  struct Counts {
    std::uint64_t predicted = 0;
    std::uint64_t dropped = 0;
    std::uint64_t wordless = 0;
    std::uint64_t failed = 0;
    std::uint64_t superseded = 0;
    std::uint64_t lost = 0;
    std::uint64_t deadline_misses = 0;
    std::uint64_t out_of_range = 0;
    std::uint64_t truncated = 0;
  };
  Counts now() const;

  dmdkit::Runtime runtime_;
  Settings settings_;
  std::string sentence_;         // what was said last
  std::string_view words_;       // of sentence_, for the runtime
  std::int64_t said_ns_ = 0;
  bool has_sentence_ = false;
  std::vector<float> score_;  // the runtime's own view would end with the explanation
  std::vector<float> logit_homo_;
  std::vector<float> logit_hetero_;
  Counts counts_;  // deadline misses and samples out of range are counted by the runtime
  Counts reported_;
  std::string last_problem_;
};

}  // namespace dmdkit_ros

#endif  // DMDKIT_ROS_EMOTION_LOGIC_HPP_
