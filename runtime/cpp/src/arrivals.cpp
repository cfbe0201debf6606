#include "arrivals.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"

namespace dmdkit {
namespace {

// More steps in one push than anything sends; keeps sizes far from overflow.
constexpr std::size_t kMaxSteps = std::size_t{1} << 16;
// Steps that one push fills at most; a longer gap is another utterance.
constexpr double kMostFilled = 1024;
// For times that differ from the expected one by the tolerance itself, but for rounding.
constexpr double kRoundingShare = 1e-9;

using Views = std::array<const std::optional<FloatView>*, kModalities>;

Views views_of(const Steps& steps) noexcept { return {&steps.text, &steps.audio, &steps.vision}; }

std::string seconds(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6f s", value);
  return text;
}

std::string steps_text(std::size_t count) { return std::to_string(count) + (count == 1 ? " step" : " steps"); }

Status wrong_size(const FloatView& view, const InputInfo& info, std::size_t count) {
  return {StatusCode::kInvalidInput, "input '" + info.name + "' has " + std::to_string(view.size()) +
                                         " values, expected (steps, " + std::to_string(info.features) +
                                         ") = " + std::to_string(count * info.features) + " for " + steps_text(count)};
}

Status non_finite(const FloatView& view, const InputInfo& info) {
  std::size_t at = 0;
  while (std::isfinite(view[at])) ++at;
  const char* found = std::isnan(view[at]) ? "nan" : view[at] > 0 ? "inf" : "-inf";
  return {StatusCode::kInvalidInput, "input '" + info.name + "' holds " + found + " at step " +
                                         std::to_string(at / info.features) + ", feature " +
                                         std::to_string(at % info.features) + " of this push"};
}

Filling filling_of(const std::string& policy, const InputInfo& info) {
  if (policy == "error") return Filling::kNone;
  if (policy == "hold") return Filling::kHold;
  if (policy != "absent") {
    throw Failure(StatusCode::kInvalidInput,
                  "missing=" + in_quotes(policy) + " for " + info.name + ": expected error, hold or absent");
  }
  if (info.may_be_absent) return Filling::kAbsent;
  throw Failure(StatusCode::kInvalidInput,
                "missing: " + info.name +
                    " may not be absent: this model never saw a sample without it; use hold or error, "
                    "or train with training.modality_dropout");
}

}  // namespace

Arrivals::Arrivals(const InputRecords& inputs, const StreamOptions& options) : inputs_(inputs), step_s_(options.step_s) {
  for (std::size_t i = 0; i < kModalities; ++i) {
    policy_[i] = filling_of(options.missing[i], inputs[i].info);
    for (auto* rows : {&clock_.held[i], &next_.held[i], &staged_[i]}) rows->resize(inputs[i].info.features);
  }
  if (step_s_ && !(std::isfinite(*step_s_) && *step_s_ > 0)) {
    throw Failure(StatusCode::kInvalidInput,
                  "step_s=" + std::to_string(*step_s_) + ": expected seconds between steps, above 0");
  }
  const std::optional<double>& tolerance = options.tolerance_s;
  if (tolerance && !(std::isfinite(*tolerance) && *tolerance >= 0 && step_s_)) {
    throw Failure(StatusCode::kInvalidInput,
                  "tolerance_s=" + std::to_string(*tolerance) + ": expected seconds, 0 or more, beside step_s");
  }
  tolerance_s_ = tolerance ? *tolerance : step_s_.value_or(0.0) / 2;
}

Status Arrivals::check_rows(const Steps& steps) const {
  if (steps.count < 1 || steps.count > kMaxSteps) {
    return {StatusCode::kInvalidInput,
            "a push of " + std::to_string(steps.count) + " steps: expected 1 to " + std::to_string(kMaxSteps)};
  }
  bool any = false;
  const Views views = views_of(steps);
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (!views[i]->has_value()) continue;
    const FloatView& view = **views[i];
    const InputInfo& info = inputs_[i].info;
    if (view.data() == nullptr || view.size() != steps.count * info.features) return wrong_size(view, info, steps.count);
    if (!all_finite(view)) return non_finite(view, info);
    any = true;
  }
  if (any) return {};
  return {StatusCode::kInvalidInput, "a push without text, audio and vision; push at least one of them"};
}

Status Arrivals::check_times(const Steps& steps) const {
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (!steps.time_s[i]) continue;
    const double time = *steps.time_s[i];
    const std::string& name = inputs_[i].info.name;
    if (steps.count > 1) {
      return {StatusCode::kInvalidInput,
              "a time for " + steps_text(steps.count) + " at once; push steps that have times one by one"};
    }
    if (!std::isfinite(time)) {
      return {StatusCode::kInvalidInput, "time of '" + name + "' is " + std::to_string(time) + ", expected finite seconds"};
    }
    if (!views_of(steps)[i]->has_value() || !clock_.last[i] || time >= *clock_.last[i]) continue;
    return {StatusCode::kInvalidInput, name + " is out of order: " + seconds(time) + " came after " + seconds(*clock_.last[i]) +
                                           "; push steps as they happened"};
  }
  return {};
}

// Finds how many whole steps are missing before this one, and which modalities are not of it.
Status Arrivals::place(const Steps& steps) {
  const Views views = views_of(steps);
  gap_ = 0;
  std::optional<double> earliest;
  for (std::size_t i = 0; i < kModalities; ++i) {
    wrong_[i] = views[i]->has_value() ? Wrong::kNothing : Wrong::kMissing;
    if (wrong_[i] != Wrong::kNothing || !steps.time_s[i]) continue;
    if (clock_.last[i] && *steps.time_s[i] == *clock_.last[i]) {
      wrong_[i] = Wrong::kRepeated;
    } else {
      earliest = earliest ? std::min(*earliest, *steps.time_s[i]) : *steps.time_s[i];
    }
  }
  if (!step_s_ || !clock_.now) return {};
  expected_s_ = *clock_.now + *step_s_;
  if (!earliest) return {};
  const double gap = std::max(0.0, std::nearbyint((*earliest - expected_s_) / *step_s_));
  if (gap > kMostFilled) {
    char text[32];
    std::snprintf(text, sizeof text, "%.0f", gap);
    return {StatusCode::kInvalidInput, std::string(text) + " steps are missing between " + seconds(*clock_.now) + " and " +
                                           seconds(*earliest) + "; reset the stream"};
  }
  gap_ = static_cast<std::size_t>(gap);
  expected_s_ += gap * *step_s_;
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (wrong_[i] != Wrong::kNothing || !steps.time_s[i]) continue;
    const double time = *steps.time_s[i];
    if (std::abs(time - expected_s_) > tolerance_s_ * (1 + kRoundingShare)) {
      wrong_[i] = time > expected_s_ ? Wrong::kLate : Wrong::kEarly;
    }
  }
  return {};
}

std::string Arrivals::why(std::size_t modality, const Steps& steps) const {
  if (wrong_[modality] == Wrong::kMissing) return "missing";
  const std::string time = seconds(*steps.time_s[modality]);
  if (wrong_[modality] == Wrong::kRepeated) return "repeated (" + time + " again)";
  return std::string(wrong_[modality] == Wrong::kLate ? "late (" : "early (") + time + ", expected " + seconds(expected_s_) +
         " within " + seconds(tolerance_s_) + ")";
}

Status Arrivals::fill(std::size_t modality, const std::string& why, Filling& filling) const {
  const std::string& name = inputs_[modality].info.name;
  filling = policy_[modality];
  if (filling == Filling::kNone) {
    return {StatusCode::kInvalidInput, name + " is " + why + "; push it, or open the stream with missing='hold' or 'absent'"};
  }
  if (filling == Filling::kHold && !clock_.holds[modality]) {
    return {StatusCode::kInvalidInput,
            name + " is " + why + ", and there is no earlier step of it to hold; begin with all modalities"};
  }
  return {};
}

// The caller's own rows where nothing stands for them, otherwise rows of ours.
void Arrivals::stage(std::size_t modality, const Steps& steps, Arrival& arrival) {
  const std::optional<FloatView>& own = *views_of(steps)[modality];
  const bool filled = wrong_[modality] != Wrong::kNothing;
  if (!filled && gap_ == 0) {
    arrival.rows[modality] = own->data();
    return;
  }
  const std::size_t width = inputs_[modality].info.features;
  std::vector<float>& staged = staged_[modality];
  if (staged.size() < arrival.count * width) staged.resize(arrival.count * width);
  float* row = staged.data();
  for (std::size_t step = 0; step < gap_ + (filled ? steps.count : 0); ++step, row += width) {
    if (policy_[modality] == Filling::kHold) {
      std::copy(clock_.held[modality].begin(), clock_.held[modality].end(), row);
    } else {
      std::fill(row, row + width, 0.0F);
    }
  }
  if (!filled) std::copy(own->begin(), own->end(), row);
  arrival.rows[modality] = staged.data();
}

void Arrivals::move_clock(const Steps& steps, const Arrival& arrival) {
  const Views views = views_of(steps);
  double sum = 0.0;
  std::size_t good = 0;
  for (std::size_t i = 0; i < kModalities; ++i) {
    const bool own = wrong_[i] == Wrong::kNothing;
    const std::size_t width = inputs_[i].info.features;
    next_.last[i] = clock_.last[i];
    next_.holds[i] = clock_.holds[i] || own;
    if (own) {
      std::copy((*views[i])->end() - width, (*views[i])->end(), next_.held[i].begin());
    } else {
      std::copy(clock_.held[i].begin(), clock_.held[i].end(), next_.held[i].begin());
    }
    if (!views[i]->has_value() || !steps.time_s[i]) continue;
    next_.last[i] = steps.time_s[i];
    sum += own ? *steps.time_s[i] : 0.0;
    good += own ? 1 : 0;
  }
  next_.now = clock_.now;
  if (good > 0) {
    next_.now = sum / static_cast<double>(good);
  } else if (clock_.now && step_s_) {
    next_.now = *clock_.now + static_cast<double>(arrival.count - steps.count + 1) * *step_s_;
  }
}

Status Arrivals::take(const Steps& steps, Arrival& arrival) {
  Status status = check_rows(steps);
  if (status.ok()) status = check_times(steps);
  if (status.ok()) status = place(steps);
  for (std::size_t i = 0; i < kModalities && status.ok(); ++i) {
    arrival.filled[i] = Filling::kNone;
    // The reason is put into words only where somebody reads it.
    const bool refused = policy_[i] == Filling::kNone || (policy_[i] == Filling::kHold && !clock_.holds[i]);
    if (wrong_[i] != Wrong::kNothing) status = fill(i, refused ? why(i, steps) : std::string(), arrival.filled[i]);
  }
  for (std::size_t i = 0; i < kModalities && status.ok() && gap_ > 0; ++i) {
    Filling unused;
    status = fill(i, "missing for " + std::to_string(gap_) + " steps", unused);
  }
  if (!status.ok()) return status;
  arrival.count = gap_ + steps.count;
  for (std::size_t i = 0; i < kModalities; ++i) stage(i, steps, arrival);
  move_clock(steps, arrival);
  return {};
}

void Arrivals::accept() noexcept { std::swap(clock_, next_); }

void Arrivals::clear() noexcept {
  clock_.now.reset();
  for (std::size_t i = 0; i < kModalities; ++i) {
    clock_.last[i].reset();
    clock_.holds[i] = false;
  }
}

}  // namespace dmdkit
