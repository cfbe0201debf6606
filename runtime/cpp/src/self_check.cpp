#include "self_check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"
#include "real_steps.hpp"
#include "session.hpp"
#include "text/token_session.hpp"

namespace dmdkit {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double mean(FloatView values) {
  double sum = 0.0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double deviation(FloatView values) {
  if (values.empty()) return 0.0;
  const double centre = mean(values);
  double squares = 0.0;
  for (const float value : values) squares += (value - centre) * (value - centre);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

bool is_constant(FloatView values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return *least == *most;
}

// The largest error, of max(1, |value|) where `relative`; infinite where the tensors cannot be compared.
double largest_error(const Tensor& now, const Tensor& then, bool relative) {
  if (now.shape != then.shape || then.values.empty() || !all_finite(now.values) || !all_finite(then.values)) return kInfinity;
  double largest = 0.0;
  for (std::size_t i = 0; i < then.values.size(); ++i) {
    const double scale = relative ? std::max(1.0, std::abs(static_cast<double>(then.values[i]))) : 1.0;
    largest = std::max(largest, std::abs(static_cast<double>(now.values[i]) - then.values[i]) / scale);
  }
  return largest;
}

// The number of samples of a golden tensor that fits `port`, else Failure.
std::size_t samples_for(const Port& port, const Tensors& inputs, const Bundle& bundle) {
  const auto found = inputs.find(port.name);
  if (found == inputs.end() || found->second.shape.size() != port.sizes.size() + 1 ||
      !std::equal(port.sizes.begin(), port.sizes.end(), found->second.shape.begin() + 1) || found->second.shape[0] == 0) {
    throw Failure(StatusCode::kBundleDamaged, bundle.path() + ": " + bundle.manifest().golden_file + ": damaged: input " +
                                                  in_quotes(port.name) + " is missing or does not fit its graph");
  }
  return found->second.shape[0];
}

}  // namespace

std::optional<double> correlation(FloatView x, FloatView y) {
  // A constant's mean is rounded, so its deviations need not be zero; its extremes are equal.
  if (x.size() < 2 || x.size() != y.size() || is_constant(x) || is_constant(y)) return std::nullopt;
  const double mean_x = mean(x);
  const double mean_y = mean(y);
  double xx = 0.0;
  double yy = 0.0;
  double xy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = x[i] - mean_x;
    const double b = y[i] - mean_y;
    xx += a * a;
    yy += b * b;
    xy += a * b;
  }
  const double norm = std::sqrt(xx * yy);
  if (!(norm > 0.0)) return std::nullopt;
  return xy / norm;
}

Limit limit_of(const std::string& output, const Tensor* then, double output_sd, bool exact, bool engine) {
  if (output == "text") {
    if (exact) return {kTextFp32Tolerance, true, {}};
    return {kInt8TextToleranceSd * (then != nullptr ? deviation(then->values) : 0.0), false, kInt8TextMinCorrelation};
  }
  if (exact) return {engine ? kEngineFp32Tolerance * std::max(1.0, output_sd) : kFp32Tolerance, true, {}};
  // Edges are probabilities, not scores, so their compressed tolerance is not in units of the score.
  const double unit = output.rfind("edges", 0) == 0 ? 1.0 : output_sd;
  return {kInt8ToleranceSd * unit, false, output == "score" ? std::optional(kInt8MinCorrelation) : std::nullopt};
}

GraphCheck check_outputs(const std::string& graph, const std::string& precision, const Tensors& found, const Tensors& recorded,
                         double output_sd, bool only_stores_int8, bool engine) {
  const bool exact = precision == "fp32" || only_stores_int8;
  std::set<std::string> names;
  for (const Tensors* tensors : {&recorded, &found}) {
    for (const auto& entry : *tensors) names.insert(entry.first);
  }
  GraphCheck check;
  check.graph = graph;
  check.passed = !recorded.empty();
  double worst_use = -1.0;
  for (const std::string& name : names) {
    const auto now = found.find(name);
    const auto then = recorded.find(name);
    const Limit limit = limit_of(name, then != recorded.end() ? &then->second : nullptr, output_sd, exact, engine);
    const bool both = now != found.end() && then != recorded.end();
    const double error = both ? largest_error(now->second, then->second, limit.relative) : kInfinity;
    if (limit.correlation && error < kInfinity) {
      check.correlation = correlation(then->second.values, now->second.values);
      check.passed = check.passed && (!check.correlation || *check.correlation >= *limit.correlation);
    }
    check.passed = check.passed && error <= limit.largest;
    const double without_room = error > 0.0 ? kInfinity : 0.0;
    const double use = limit.largest > 0.0 ? error / limit.largest : without_room;
    if (use > worst_use) {
      worst_use = use;
      check.worst_output = name;
      check.max_error = error;
      check.tolerance = limit.largest;
    }
  }
  return check;
}

namespace {

GraphCheck check_text_graph(const Bundle& bundle, const Golden& golden, const std::string& graph, const GraphRecord& record,
                            const Options& options) {
  text::TokenSession session(bundle, graph, options);
  const IntegerTensor& ids = golden.tokens.at("input_ids");
  const std::vector<std::int64_t>& mask = golden.tokens.at("attention_mask").values;
  session.resize(ids.shape[0], ids.shape[1]);
  std::copy(ids.values.begin(), ids.values.end(), session.ids());
  std::copy(mask.begin(), mask.end(), session.mask());
  session.run();
  Tensor features;
  features.shape = {ids.shape[0], ids.shape[1], bundle.manifest().inputs[0].info.features};
  features.values.assign(session.features(), session.features() + ids.values.size() * features.shape[2]);
  const auto recorded = golden.recorded.find(graph);
  return check_outputs(graph, record.precision, {{"text", std::move(features)}},
                       recorded == golden.recorded.end() ? Tensors{} : recorded->second, bundle.manifest().output_sd,
                       record.only_stores_int8);
}

}  // namespace

GraphCheck check_graph(const Bundle& bundle, const Golden& golden, const std::string& graph, const Options& options) {
  const GraphRecord* record = bundle.manifest().find_graph(graph);
  if (record == nullptr) throw Failure(StatusCode::kInternal, "no graph " + in_quotes(graph));
  if (record->kind == "text") return check_text_graph(bundle, golden, graph, *record, options);
  Session session(bundle, graph, options);
  const Tensors& inputs = golden.inputs_of(record->kind);
  std::size_t samples = 0;
  // Of a model of real steps: how many there are, counted from the samples.
  const auto is_counted = [&](const Port& port) { return bundle.manifest().real_steps && port.name == kStepsInput; };
  for (const Port& port : session.inputs()) {
    if (is_counted(port)) continue;
    const std::size_t here = samples_for(port, inputs, bundle);
    if (samples != 0 && here != samples) {
      throw Failure(StatusCode::kBundleDamaged,
                    bundle.path() + ": " + bundle.manifest().golden_file + ": damaged: inputs disagree on the batch");
    }
    samples = here;
  }
  session.bind(samples);
  for (const Port& port : session.inputs()) {
    if (is_counted(port)) {
      std::array<const float*, kModalities> features;
      for (std::size_t i = 0; i < kModalities; ++i) features[i] = inputs.at(kModalityNames[i]).values.data();
      const Status counted = count_steps(features, bundle.manifest().inputs, samples, 0, port.buffer);
      if (!counted.ok()) throw Failure(counted);
      continue;
    }
    std::memcpy(port.buffer, inputs.at(port.name).values.data(), samples * port.values * sizeof(float));
  }
  const Status status = session.run();
  if (!status.ok()) throw Failure(status);
  Tensors found;
  for (const Port& port : session.outputs()) {
    Tensor tensor;
    tensor.shape.push_back(samples);
    tensor.shape.insert(tensor.shape.end(), port.sizes.begin(), port.sizes.end());
    tensor.values.assign(port.buffer, port.buffer + samples * port.values);
    found.emplace(port.name, std::move(tensor));
  }
  const auto recorded = golden.recorded.find(graph);
  // The native kernels compute in INT8 what ONNX Runtime only stores so.
  const bool exact = record->only_stores_int8 && session.backend().rfind("native", 0) != 0;
  return check_outputs(graph, record->precision, found, recorded == golden.recorded.end() ? Tensors{} : recorded->second,
                       bundle.manifest().output_sd, exact, session.runs_engine());
}

}  // namespace dmdkit
