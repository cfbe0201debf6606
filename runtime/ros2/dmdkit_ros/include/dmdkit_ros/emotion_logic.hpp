// What the node does, without ROS: which features are taken, what is answered, and what the diagnostics say.
#ifndef DMDKIT_ROS_EMOTION_LOGIC_HPP_
#define DMDKIT_ROS_EMOTION_LOGIC_HPP_

#include <array>
#include <cstdint>
#include <dmdkit/runtime.hpp>
#include <string>
#include <utility>
#include <vector>

namespace dmdkit_ros {

struct Settings {
  std::string bundle;
  dmdkit::Options runtime;
  bool self_check = true;           // replay the golden samples before the first prediction, and refuse to start if they differ
  std::uint32_t explain_every = 0;  // explain every so many predictions; 0: never
  double max_age_ms = 0.0;          // features older than this are dropped; 0: none are
};

// One modality as a message carries it.
struct Modality {
  dmdkit::FloatView values;
  bool absent = false;
};

struct Sample {
  std::array<Modality, dmdkit::kModalities> modalities;  // text, audio, vision
  double age_ms = 0.0;                                   // now minus the message's stamp
};

// What became of one sample. The views are valid until the next call.
struct Answer {
  enum class Outcome { kPredicted, kDropped, kFailed };
  Outcome outcome = Outcome::kFailed;
  dmdkit::Prediction prediction;  // if kPredicted
  bool explained = false;
  dmdkit::Explanation explanation;  // if explained
  std::string problem;              // if kDropped or kFailed, or an explanation that failed
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
  // Opens the bundle and, if asked for, checks it.
  static dmdkit::Result<EmotionLogic> open(const Settings& settings) noexcept;

  const dmdkit::Runtime& runtime() const noexcept { return runtime_; }

  Answer handle(const Sample& sample);

  // What happened since the last report decides the level: an error if a sample failed, a warning if a deadline was missed,
  // features were dropped or left the training range, stale if none came.
  Report report();

 private:
  EmotionLogic(dmdkit::Runtime runtime, const Settings& settings)
      : runtime_(std::move(runtime)), settings_(settings), score_(runtime_.outputs()) {}

  struct Counts {
    std::uint64_t predicted = 0;
    std::uint64_t dropped = 0;
    std::uint64_t failed = 0;
    std::uint64_t deadline_misses = 0;
    std::uint64_t out_of_range = 0;
  };
  Counts now() const;

  dmdkit::Runtime runtime_;
  Settings settings_;
  std::vector<float> score_;  // the runtime's own view would end with the explanation
  Counts counts_;             // predicted, dropped, failed; the rest is the runtime's
  Counts reported_;
  std::string last_problem_;
};

}  // namespace dmdkit_ros

#endif  // DMDKIT_ROS_EMOTION_LOGIC_HPP_
