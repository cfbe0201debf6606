#include "dmdkit_ros/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace dmdkit_ros {
namespace {

constexpr double kMaxDeadlineUs = 3.6e9;  // an hour
constexpr double kMaxAgeMs = 3.6e6;
constexpr double kMaxThreads = 1024.0;  // of the runtime
constexpr double kMaxEvery = std::numeric_limits<std::uint32_t>::max();

Value text(const char* value) { return std::string(value); }

const char* type_of(const Value& value) {
  static constexpr const char* kNames[] = {"true or false", "an integer", "a number", "text"};
  return kNames[value.index()];
}

// Whole numbers without a point, so that a limit reads as it is typed.
std::string in_words(double value) {
  return value == std::floor(value) ? std::to_string(static_cast<long long>(value)) : std::to_string(value);
}

std::string in_words(const Value& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using Held = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, bool>) {
          return held ? "true" : "false";
        } else if constexpr (std::is_same_v<Held, std::int64_t>) {
          return std::to_string(held);
        } else if constexpr (std::is_same_v<Held, double>) {
          return std::isfinite(held) && std::fabs(held) < 1e15 ? in_words(held) : std::to_string(held);
        } else {
          return "'" + held + "'";
        }
      },
      value);
}

template <typename T>
T held(const Values& values, const char* name) {
  const auto found = values.find(name);
  return std::get<T>(found == values.end() ? find_parameter(name)->standard : found->second);
}

}  // namespace

const std::vector<ParameterInfo>& parameters() {
  static const std::vector<ParameterInfo> kParameters = {
      {"bundle", text(""), 0, 0, "path of a bundle directory"},
      {"graph", text(""), 0, 0, "graph or precision, such as int8-cpu; empty: the preferred one that passed parity"},
      {"device", text("auto"), 0, 0, "auto, cpu or cuda"},
      {"backend", text("onnxruntime"), 0, 0, "onnxruntime, or tensorrt where that backend was built"},
      {"threads", std::int64_t{1}, 1, kMaxThreads, "threads inside one prediction"},
      {"affinity", text(""), 0, 0, "processors of the worker threads, such as 1;2"},
      {"spin", false, 0, 0, "whether idle worker threads spin: faster answers for a busy core"},
      {"deadline_us", std::int64_t{8000}, 0, kMaxDeadlineUs, "slower predictions are counted and reported; 0: none are"},
      {"self_check", true, 0, 0, "refuse to start where the bundle's golden samples give other answers"},
      {"explain_every", std::int64_t{0}, 0, kMaxEvery, "publish an explanation every so many predictions; 0: never"},
      {"max_age_ms", 0.0, 0, kMaxAgeMs, "drop features older than this; 0: drop none"},
      {"max_words_age_ms", 0.0, 0, kMaxAgeMs, "forget a sentence older than this; 0: it stands until the next one"},
      {"diagnostics_period_s", 1.0, 0.1, 3600, "seconds between two messages on /diagnostics"},
      {"autostart", false, 0, 0, "configure and activate without being told to; read when the node starts"},
  };
  return kParameters;
}

const ParameterInfo* find_parameter(const std::string& name) {
  const auto& all = parameters();
  const auto found = std::find_if(all.begin(), all.end(), [&](const ParameterInfo& info) { return info.name == name; });
  return found == all.end() ? nullptr : &*found;
}

const char* type_name(const ParameterInfo& info) { return type_of(info.standard); }

dmdkit::Result<Value> converted(const ParameterInfo& info, const Value& given) {
  const auto refused = [&](const std::string& why) {
    return dmdkit::Status(dmdkit::StatusCode::kInvalidInput,
                          "parameter '" + info.name + "' is " + in_words(given) + ": " + why);
  };
  Value value = given;
  if (const auto* whole = std::get_if<std::int64_t>(&given)) {
    if (std::holds_alternative<double>(info.standard)) value = static_cast<double>(*whole);
    if (std::holds_alternative<std::string>(info.standard)) value = std::to_string(*whole);
  }
  if (value.index() != info.standard.index()) {
    const bool quotes = std::holds_alternative<std::string>(info.standard);
    return refused(std::string("expected ") + type_of(info.standard) + ", not " + type_of(given) +
                   (quotes ? "; put it in quotes inside quotes, as in bundle:=\"'1.0'\"" : ""));
  }
  if (!std::holds_alternative<std::int64_t>(value) && !std::holds_alternative<double>(value)) return value;
  const auto* whole = std::get_if<std::int64_t>(&value);
  const double number = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value);
  if (!(number >= info.low && number <= info.high)) {
    return refused("expected " + in_words(info.low) + " to " + in_words(info.high));
  }
  return value;
}

Settings settings_from(const Values& values) {
  Settings settings;
  settings.bundle = held<std::string>(values, "bundle");
  settings.runtime.graph = held<std::string>(values, "graph");
  settings.runtime.device = held<std::string>(values, "device");
  settings.runtime.backend = held<std::string>(values, "backend");
  settings.runtime.threads = static_cast<int>(held<std::int64_t>(values, "threads"));
  settings.runtime.affinity = held<std::string>(values, "affinity");
  settings.runtime.spin = held<bool>(values, "spin");
  settings.runtime.deadline_us = static_cast<std::uint64_t>(held<std::int64_t>(values, "deadline_us"));
  settings.self_check = held<bool>(values, "self_check");
  settings.explain_every = static_cast<std::uint32_t>(held<std::int64_t>(values, "explain_every"));
  settings.max_age_ms = held<double>(values, "max_age_ms");
  settings.max_words_age_ms = held<double>(values, "max_words_age_ms");
  return settings;
}

}  // namespace dmdkit_ros
