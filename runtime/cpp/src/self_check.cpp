#include "self_check.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"
#include "session.hpp"

namespace dmdkit {
namespace {

double mean(FloatView values) {
  double sum = 0.0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// The number of samples of a golden tensor that fits `port`, else Failure.
std::size_t samples_for(const Port& port, const std::map<std::string, Tensor>& inputs, const Bundle& bundle) {
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
  if (x.size() < 2 || x.size() != y.size()) return std::nullopt;
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

GraphCheck check_outputs(const std::string& graph, const std::string& precision, const std::map<std::string, Tensor>& found,
                         const std::map<std::string, Tensor>& recorded, double output_sd, double fp32_tolerance,
                         bool only_stores_int8) {
  const bool exact = precision == "fp32" || only_stores_int8;
  GraphCheck check;
  check.graph = graph;
  check.tolerance = exact ? fp32_tolerance : kInt8ToleranceSd * output_sd;
  check.passed = !recorded.empty();
  for (const auto& [name, then] : recorded) {
    const auto entry = found.find(name);
    if (entry == found.end() || entry->second.shape != then.shape || !all_finite(entry->second.values) || then.values.empty()) {
      check.max_error = std::numeric_limits<double>::infinity();
      check.correlation.reset();
      check.passed = false;
      check.worst_output = name;
      return check;
    }
    const std::vector<float>& now = entry->second.values;
    double error = 0.0;
    for (std::size_t i = 0; i < now.size(); ++i) {
      const double scale = exact ? std::max(1.0, std::abs(static_cast<double>(then.values[i]))) : 1.0;
      const double difference = std::abs(static_cast<double>(now[i]) - then.values[i]) / scale;
      // A recorded NaN must not pass for agreement.
      error = std::max(error, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
    }
    // Edges are probabilities, not scores, so their compressed tolerance is not in units of the score.
    const double limit = exact || name.rfind("edges", 0) != 0 ? check.tolerance : kInt8ToleranceSd;
    if (name == "score" && !exact) {
      check.correlation = correlation(then.values, now);
      check.passed = check.passed && (!check.correlation || *check.correlation >= kInt8MinCorrelation);
    }
    check.passed = check.passed && error <= limit;
    if (error >= check.max_error) {
      check.max_error = error;
      check.worst_output = name;
    }
  }
  return check;
}

GraphCheck check_graph(const Bundle& bundle, const Golden& golden, const std::string& graph, const Options& options) {
  const GraphRecord* record = bundle.manifest().find_graph(graph);
  if (record == nullptr) throw Failure(StatusCode::kInternal, "no graph " + in_quotes(graph));
  Session session(bundle, graph, options);
  const std::map<std::string, Tensor>& inputs = golden.inputs_of(record->kind);
  std::size_t samples = 0;
  for (const Port& port : session.inputs()) {
    const std::size_t here = samples_for(port, inputs, bundle);
    if (samples != 0 && here != samples) {
      throw Failure(StatusCode::kBundleDamaged,
                    bundle.path() + ": " + bundle.manifest().golden_file + ": damaged: inputs disagree on the batch");
    }
    samples = here;
  }
  session.bind(samples);
  for (const Port& port : session.inputs()) {
    std::memcpy(port.buffer, inputs.at(port.name).values.data(), samples * port.values * sizeof(float));
  }
  const Status status = session.run();
  if (!status.ok()) throw Failure(status);
  std::map<std::string, Tensor> found;
  for (const Port& port : session.outputs()) {
    Tensor tensor;
    tensor.shape.push_back(samples);
    tensor.shape.insert(tensor.shape.end(), port.sizes.begin(), port.sizes.end());
    tensor.values.assign(port.buffer, port.buffer + samples * port.values);
    found.emplace(port.name, std::move(tensor));
  }
  const auto recorded = golden.recorded.find(graph);
  const double output_sd = bundle.manifest().output_sd;
  return check_outputs(graph, record->precision, found,
                       recorded == golden.recorded.end() ? std::map<std::string, Tensor>{} : recorded->second, output_sd,
                       session.runs_engine() ? kEngineFp32Tolerance * std::max(1.0, output_sd) : kFp32Tolerance,
                       record->only_stores_int8);
}

}  // namespace dmdkit
