#include "dmdkit_ros/emotion_logic.hpp"

#include <cmath>

namespace dmdkit_ros {
namespace {

// With a point whatever the locale of the process: tools read these.
std::string milliseconds(double value) {
  const long long thousandths = std::llround(value * 1000.0);
  const std::string part = std::to_string(thousandths % 1000);
  return std::to_string(thousandths / 1000) + "." + std::string(3 - part.size(), '0') + part;
}

std::string counted(std::uint64_t count, const char* what) { return std::to_string(count) + " " + what; }

}  // namespace

dmdkit::Result<EmotionLogic> EmotionLogic::open(const Settings& settings) noexcept {
  Settings with = settings;
  with.runtime.preload_explain = with.runtime.preload_explain || settings.explain_every > 0;  // not in the first callback
  auto runtime = dmdkit::Runtime::open(with.bundle, with.runtime);
  if (!runtime) return runtime.status();
  if (with.self_check) {
    const auto check = runtime->self_check();
    if (!check) return check.status();
    if (!check->passed) {
      return dmdkit::Status(dmdkit::StatusCode::kBackendFailed,
                            with.bundle + ": the self-check did not pass: this machine gives other answers than were exported");
    }
  }
  return EmotionLogic(std::move(*runtime), with);
}

Answer EmotionLogic::handle(const Sample& sample) {
  Answer answer;
  if (settings_.max_age_ms > 0.0 && sample.age_ms > settings_.max_age_ms) {
    ++counts_.dropped;
    answer.outcome = Answer::Outcome::kDropped;
    answer.problem =
        "features are " + milliseconds(sample.age_ms) + " ms old, " + milliseconds(settings_.max_age_ms) + " ms are allowed";
    last_problem_ = answer.problem;
    return answer;
  }
  dmdkit::Inputs inputs;
  std::optional<dmdkit::FloatView>* const views[] = {&inputs.text, &inputs.audio, &inputs.vision};
  for (std::size_t i = 0; i < sample.modalities.size(); ++i) {
    if (!sample.modalities[i].absent) *views[i] = sample.modalities[i].values;
  }
  const auto prediction = runtime_.predict_into(inputs, score_);
  if (!prediction) {
    ++counts_.failed;
    answer.problem = last_problem_ = prediction.status().message();
    return answer;
  }
  ++counts_.predicted;
  answer.outcome = Answer::Outcome::kPredicted;
  answer.prediction = *prediction;
  if (settings_.explain_every == 0 || (counts_.predicted - 1) % settings_.explain_every != 0) return answer;
  const auto explanation = runtime_.explain(inputs);
  if (explanation) {
    answer.explained = true;
    answer.explanation = *explanation;
  } else {
    ++counts_.failed;
    answer.problem = last_problem_ = explanation.status().message();
  }
  return answer;
}

EmotionLogic::Counts EmotionLogic::now() const {
  const dmdkit::Stats stats = runtime_.stats();
  Counts counts = counts_;
  counts.deadline_misses = stats.deadline_misses;
  counts.out_of_range = stats.out_of_range;
  return counts;
}

Report EmotionLogic::report() {
  const Counts counts = now();
  const std::uint64_t failed = counts.failed - reported_.failed;
  const std::uint64_t dropped = counts.dropped - reported_.dropped;
  const std::uint64_t misses = counts.deadline_misses - reported_.deadline_misses;
  const std::uint64_t strange = counts.out_of_range - reported_.out_of_range;
  const std::uint64_t predicted = counts.predicted - reported_.predicted;
  Report report;
  if (failed > 0) {
    report.level = Level::kError;
    report.message = counted(failed, "samples failed; the last: ") + last_problem_;
  } else if (misses > 0 || dropped > 0 || strange > 0) {
    report.level = Level::kWarn;
    if (misses > 0) report.message = counted(misses, "deadlines missed");
    if (dropped > 0) report.message += (report.message.empty() ? "" : ", ") + counted(dropped, "samples too old");
    if (strange > 0) {
      report.message += (report.message.empty() ? "" : ", ") + counted(strange, "samples outside the training range");
    }
  } else if (predicted > 0) {
    report.level = Level::kOk;
    report.message = counted(predicted, "predictions");
  } else {
    report.message = "no features came";
  }
  reported_ = counts;
  const dmdkit::Stats stats = runtime_.stats();
  report.values = {{"graph", runtime_.graph()},
                   {"backend", runtime_.backend()},
                   {"predictions", std::to_string(stats.count)},
                   {"p50_ms", milliseconds(stats.p50_ms)},
                   {"p99_ms", milliseconds(stats.p99_ms)},
                   {"max_ms", milliseconds(stats.max_ms)},
                   {"deadline_misses", std::to_string(stats.deadline_misses)},
                   {"out_of_range", std::to_string(stats.out_of_range)},
                   {"too_old", std::to_string(counts.dropped)},
                   {"failed", std::to_string(counts.failed)},
                   {"last_problem", last_problem_}};
  return report;
}

}  // namespace dmdkit_ros
