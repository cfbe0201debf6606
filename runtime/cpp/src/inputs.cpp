#include "inputs.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "finite.hpp"

namespace dmdkit {
namespace {

using Views = std::array<const std::optional<FloatView>*, kModalities>;

Views views_of(const Inputs& inputs) noexcept { return {&inputs.text, &inputs.audio, &inputs.vision}; }

std::string name_of(float value) { return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"; }

Status non_finite(const FloatView& view, const InputInfo& info) {
  std::size_t at = 0;
  while (std::isfinite(view[at])) ++at;
  const std::size_t features = info.features;
  return {StatusCode::kInvalidInput, "input '" + info.name + "' holds " + name_of(view[at]) + " at sample " +
                                         std::to_string(at / (info.steps * features)) + ", step " +
                                         std::to_string(at / features % info.steps) + ", feature " +
                                         std::to_string(at % features) +
                                         "; replace it before predicting (training replaced by 0 only if its recipe said so)"};
}

// What the encoder is given has one sentence for each sample of the batch, and nobody else gives text.
Status check_words(const Inputs& inputs, bool has_text_encoder) {
  if (!has_text_encoder) {
    return {StatusCode::kGraphUnavailable,
            "the bundle has no text encoder, so text is features, float32 (steps, features), not strings or token ids; export a "
            "run that was trained with one (docs/text.md)"};
  }
  if (inputs.text.has_value() || (inputs.words && inputs.token_ids)) {
    return {StatusCode::kInvalidInput, "input 'text' is given more than once; pass features, words or token ids"};
  }
  const std::size_t sentences = inputs.words ? inputs.words->size() : inputs.token_ids->size();
  const bool there = sentences == 0 || (inputs.words ? inputs.words->data() != nullptr : inputs.token_ids->data() != nullptr);
  if (there && sentences == inputs.batch) return {};
  return {StatusCode::kInvalidInput, "input 'text' has " + std::to_string(sentences) + " sentences, expected " +
                                         std::to_string(inputs.batch) + " for a batch of " + std::to_string(inputs.batch)};
}

Status wrong_size(const FloatView& view, const InputRecord& record, std::size_t batch) {
  const InputInfo& info = record.info;
  return {StatusCode::kInvalidInput, "input '" + info.name + "' has " + std::to_string(view.size()) +
                                         " values, expected (batch, " + std::to_string(info.steps) + ", " +
                                         std::to_string(info.features) +
                                         ") = " + std::to_string(batch * info.steps * info.features) + " for a batch of " +
                                         std::to_string(batch)};
}

}  // namespace

Status check_inputs(const Inputs& inputs, const InputRecords& records, bool has_text_encoder) {
  // The largest batch whose sizes cannot overflow: a sample has at most 2^28 values.
  constexpr std::size_t kMaxBatch = std::size_t{1} << 24;
  if (inputs.batch < 1 || inputs.batch > kMaxBatch) {
    return {StatusCode::kInvalidInput,
            "batch is " + std::to_string(inputs.batch) + ", expected 1 to " + std::to_string(kMaxBatch)};
  }
  const Views views = views_of(inputs);
  bool any = has_words(inputs);
  if (any) {
    Status status = check_words(inputs, has_text_encoder);
    if (!status.ok()) return status;
  }
  for (std::size_t i = any ? 1 : 0; i < kModalities; ++i) {
    const InputInfo& info = records[i].info;
    if (!views[i]->has_value()) {
      if (info.may_be_absent) continue;
      return {StatusCode::kInvalidInput, "input '" + info.name +
                                             "' is absent, but this model was not trained without it; pass its features "
                                             "(train with training.modality_dropout to allow absence)"};
    }
    const FloatView& view = **views[i];
    if (view.data() == nullptr || view.size() != inputs.batch * info.steps * info.features) {
      return wrong_size(view, records[i], inputs.batch);
    }
    if (!all_finite(view)) return non_finite(view, info);
    any = true;
  }
  if (!any) return {StatusCode::kInvalidInput, "all inputs are absent; pass at least one modality"};
  return {};
}

void copy_inputs(const Inputs& inputs, const InputRecords& records, const std::array<float*, kModalities>& buffers) noexcept {
  const Views views = views_of(inputs);
  for (std::size_t i = has_words(inputs) ? 1 : 0; i < kModalities; ++i) {
    const std::size_t bytes = inputs.batch * records[i].info.steps * records[i].info.features * sizeof(float);
    if (views[i]->has_value()) {
      std::memcpy(buffers[i], (*views[i])->data(), bytes);
    } else {
      std::memset(buffers[i], 0, bytes);
    }
  }
}

RangeGuard::RangeGuard(const InputRecords& records) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  for (std::size_t i = 0; i < kModalities; ++i) {
    const InputRecord& record = records[i];
    limits_[i].steps = record.info.steps;
    limits_[i].may_be_empty = record.info.may_be_absent;
    if (!record.minimum || !record.maximum) continue;
    for (std::size_t feature = 0; feature < record.info.features; ++feature) {
      const double low = (*record.minimum)[feature];
      const double high = (*record.maximum)[feature];
      const double margin = kRangeMargin * (high - low) + kRounding * std::max(std::abs(low), std::abs(high));
      limits_[i].low.push_back(static_cast<float>(std::clamp(low - margin, -kLargest, kLargest)));
      limits_[i].high.push_back(static_cast<float>(std::clamp(high + margin, -kLargest, kLargest)));
    }
  }
}

RangeGuard::Counts RangeGuard::count_step(std::size_t modality, const float* values) const noexcept {
  const Limits& limits = limits_[modality];
  const float* low = limits.low.data();
  const float* high = limits.high.data();
  std::uint32_t any = 0;
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < limits.low.size(); ++i) {
    any |= static_cast<std::uint32_t>(values[i] != 0.0F);
    out += static_cast<std::uint32_t>(values[i] < low[i]) | static_cast<std::uint32_t>(values[i] > high[i]);
  }
  return {any * out, any};
}

double RangeGuard::share(std::size_t modality, const Counts& counts) const noexcept {
  const Limits& limits = limits_[modality];
  if (limits.low.empty()) return 0.0;
  if (counts.present == 0) return limits.may_be_empty ? 0.0 : 1.0;
  const double share = static_cast<double>(counts.outside) / static_cast<double>(counts.present * limits.low.size());
  return share >= kOutOfRangeShare ? share : 0.0;
}

double RangeGuard::alarm(std::size_t modality, const float* values, std::size_t batch) const noexcept {
  const Limits& limits = limits_[modality];
  double largest = 0.0;
  for (std::size_t sample = 0; sample < batch; ++sample) {
    Counts counts;
    for (std::size_t step = 0; step < limits.steps; ++step, values += limits.low.size()) {
      const Counts found = count_step(modality, values);
      counts.outside += found.outside;
      counts.present += found.present;
    }
    largest = std::max(largest, share(modality, counts));
  }
  return largest;
}

}  // namespace dmdkit
