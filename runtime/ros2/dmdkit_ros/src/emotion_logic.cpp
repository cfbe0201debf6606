#include "dmdkit_ros/emotion_logic.hpp"

#include <algorithm>
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

double age_ms(std::int64_t now_ns, std::int32_t stamp_sec, std::uint32_t stamp_nanosec) noexcept {
  constexpr std::int64_t kNanoseconds = 1'000'000'000;
  const std::int64_t stamp_ns = stamp_sec * kNanoseconds + static_cast<std::int64_t>(stamp_nanosec);
  return static_cast<double>(now_ns / 1000 - stamp_ns / 1000) / 1e3;  // a difference of nanoseconds could overflow
}

EmotionLogic::EmotionLogic(dmdkit::Runtime runtime, const Settings& settings)
    : runtime_(std::move(runtime)), settings_(settings), score_(runtime_.outputs()) {}

dmdkit::Result<EmotionLogic> EmotionLogic::open(const Settings& settings) noexcept {
  if (settings.bundle.empty()) {
    return dmdkit::Status(
        dmdkit::StatusCode::kBundleNotFound,
        "parameter 'bundle' is not set: expected the path of a bundle directory, as in bundle:=/path/face.dmd");
  }
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

bool EmotionLogic::say(std::string sentence, std::int64_t now_ns) {
  if (!runtime_.has_text_encoder()) {
    add_failure("words came, but the bundle has no text encoder; export a run that was trained with one, or send text features");
    return false;
  }
  sentence_ = std::move(sentence);
  said_ns_ = now_ns;
  has_sentence_ = true;
  return true;
}

bool EmotionLogic::takes_words(const Sample& sample) const noexcept {
  return !sample.modalities[0].absent && sample.modalities[0].values.empty() && runtime_.has_text_encoder();
}

Answer EmotionLogic::handle(const Sample& sample, std::int64_t now_ns) {
  Answer answer;
  const double silent_ms = static_cast<double>(now_ns / 1000 - said_ns_ / 1000) / 1e3;
  if (has_sentence_ && settings_.max_words_age_ms > 0.0 && silent_ms > settings_.max_words_age_ms) has_sentence_ = false;
  words_ = sentence_;
  if (takes_words(sample) && !has_sentence_ && !runtime_.inputs()[0].may_be_absent) {
    ++counts_.wordless;
    answer.outcome = Answer::Outcome::kDropped;
    answer.problem = "no words came that still stand, and the model was not trained without text";
    last_problem_ = answer.problem;
    return answer;
  }
  if (settings_.max_age_ms > 0.0 && sample.age_ms > settings_.max_age_ms) {
    ++counts_.dropped;
    answer.outcome = Answer::Outcome::kDropped;
    answer.problem =
        "features are " + milliseconds(sample.age_ms) + " ms old, " + milliseconds(settings_.max_age_ms) + " ms are allowed";
    last_problem_ = answer.problem;
    return answer;
  }
  const auto prediction = runtime_.predict_into(inputs_of(sample), score_);
  if (!prediction) {
    answer.problem = prediction.status().message();
    add_failure(answer.problem);
    return answer;
  }
  ++counts_.predicted;
  answer.outcome = Answer::Outcome::kPredicted;
  answer.prediction = *prediction;
  answer.explain_due = settings_.explain_every > 0 && (counts_.predicted - 1) % settings_.explain_every == 0;
  return answer;
}

dmdkit::Result<dmdkit::Explanation> EmotionLogic::explain(const Sample& sample) {
  auto explanation = runtime_.explain(inputs_of(sample));
  if (!explanation) {
    add_failure(explanation.status().message());
    return explanation;
  }
  explanation->logit_homo = in_input_order(explanation->logit_homo, logit_homo_);
  explanation->logit_hetero = in_input_order(explanation->logit_hetero, logit_hetero_);
  return explanation;
}

dmdkit::Inputs EmotionLogic::inputs_of(const Sample& sample) const noexcept {
  dmdkit::Inputs inputs;
  std::optional<dmdkit::FloatView>* const views[] = {&inputs.text, &inputs.audio, &inputs.vision};
  const bool words = takes_words(sample);
  for (std::size_t i = words ? 1 : 0; i < sample.modalities.size(); ++i) {
    if (!sample.modalities[i].absent) *views[i] = sample.modalities[i].values;
  }
  if (words && has_sentence_) inputs.words.emplace(&words_, 1);
  return inputs;
}

dmdkit::FloatView EmotionLogic::in_input_order(dmdkit::FloatView logits, std::vector<float>& ordered) const {
  const std::size_t outputs = runtime_.outputs();
  ordered.resize(logits.size());
  for (std::size_t from = 0; from < dmdkit::kModalities; ++from) {
    std::size_t to = 0;
    while (runtime_.modality_order()[from] != dmdkit::kModalityNames[to]) ++to;  // the manifest has each of them once
    std::copy_n(logits.begin() + from * outputs, outputs, ordered.begin() + static_cast<std::ptrdiff_t>(to * outputs));
  }
  return ordered;
}

void EmotionLogic::add_failure(const std::string& problem) {
  ++counts_.failed;
  last_problem_ = problem;
}

std::string EmotionLogic::summary() const {
  std::string text = runtime_.name() + " (" + runtime_.task().name + ", " + counted(runtime_.outputs(), "outputs") + "), " +
                     runtime_.graph() + " in " + runtime_.backend() + "; steps x features:";
  for (const dmdkit::InputInfo& input : runtime_.inputs()) {
    text += " " + input.name + " " + std::to_string(input.steps) + " x " + std::to_string(input.features) +
            (input.may_be_absent ? " (may be absent)" : "");
  }
  if (runtime_.has_text_encoder()) text += "; words in place of text";
  return text;
}

EmotionLogic::Counts EmotionLogic::now() const {
  const dmdkit::Stats stats = runtime_.stats();
  Counts counts = counts_;
  counts.deadline_misses = stats.deadline_misses;
  counts.out_of_range = stats.out_of_range;
  counts.truncated = stats.truncated;
  return counts;
}

Report EmotionLogic::report(bool active) {
  const Counts counts = now();
  const std::uint64_t failed = counts.failed - reported_.failed;
  const std::uint64_t predicted = counts.predicted - reported_.predicted;
  const std::pair<std::uint64_t, const char*> warnings[] = {
      {counts.deadline_misses - reported_.deadline_misses, "deadlines missed"},
      {counts.dropped - reported_.dropped, "samples too old"},
      {counts.wordless - reported_.wordless, "samples without words"},
      {counts.truncated - reported_.truncated, "sentences cut"},
      {counts.superseded - reported_.superseded, "samples superseded by newer ones"},
      {counts.lost - reported_.lost, "samples lost by the middleware"},
      {counts.out_of_range - reported_.out_of_range, "samples outside the training range"}};
  Report report;
  for (const auto& [count, what] : warnings) {
    if (count > 0) report.message += (report.message.empty() ? "" : ", ") + counted(count, what);
  }
  if (failed > 0) {
    report.level = Level::kError;
    report.message = counted(failed, "samples failed; the last: ") + last_problem_;
  } else if (!report.message.empty()) {
    report.level = Level::kWarn;
  } else if (!active) {
    report.message = "inactive";
  } else if (predicted > 0) {
    report.level = Level::kOk;
    report.message = counted(predicted, "predictions");
  } else {
    report.message = "no features came";
  }
  reported_ = counts;
  const dmdkit::Stats stats = runtime_.stats();
  report.values = {{"state", active ? "active" : "inactive"},
                   {"graph", runtime_.graph()},
                   {"backend", runtime_.backend()},
                   {"predictions", std::to_string(stats.count)},
                   {"p50_ms", milliseconds(stats.p50_ms)},
                   {"p99_ms", milliseconds(stats.p99_ms)},
                   {"max_ms", milliseconds(stats.max_ms)},
                   {"deadline_misses", std::to_string(stats.deadline_misses)},
                   {"out_of_range", std::to_string(stats.out_of_range)},
                   {"too_old", std::to_string(counts.dropped)},
                   {"without_words", std::to_string(counts.wordless)},
                   {"truncated", std::to_string(stats.truncated)},
                   {"text_graph", runtime_.text_graph()},
                   {"superseded", std::to_string(counts.superseded)},
                   {"lost", std::to_string(counts.lost)},
                   {"failed", std::to_string(counts.failed)},
                   {"last_problem", last_problem_}};
  last_problem_.clear();
  return report;
}

}  // namespace dmdkit_ros
