// The rules that Python and C++ share, case by case: tests/vectors is written from Python's rules (tests/vectors/generate.py).
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "arrivals.hpp"
#include "bundle.hpp"
#include "failure.hpp"
#include "inputs.hpp"
#include "self_check.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<Json> cases(const std::string& file, const char* kind) {
  std::ifstream stream(std::string(DMDKIT_TEST_VECTORS) + "/" + file);
  const Json whole = Json::parse(stream);
  return whole.at(kind).get<std::vector<Json>>();
}

// JSON has no word for what is not finite.
float number(const Json& value) { return value.is_string() ? std::stof(value.get<std::string>()) : value.get<float>(); }

std::vector<float> numbers(const Json& values) {
  std::vector<float> result;
  for (const Json& value : values) result.push_back(number(value));
  return result;
}

Tensors tensors(const Json& values) {
  Tensors result;
  for (const auto& [name, value] : values.items()) {
    result[name] = {value.at("shape").get<std::vector<std::size_t>>(), numbers(value.at("values"))};
  }
  return result;
}

InputRecords records(const Json& values) {
  InputRecords result;
  for (std::size_t i = 0; i < kModalities; ++i) {
    const Json& value = values.at(kModalityNames[i]);
    InputRecord& record = result[i];
    record.info.name = kModalityNames[i];
    record.info.steps = value.at("steps").get<std::size_t>();
    record.info.features = value.at("features").get<std::size_t>();
    record.info.may_be_absent = value.at("trained_absent").get<bool>();
    if (value.at("minimum").is_null()) continue;
    record.minimum = value.at("minimum").get<std::vector<double>>();
    record.maximum = value.at("maximum").get<std::vector<double>>();
  }
  return result;
}

void check_input(const Json& given) {
  SCOPED_TRACE(given.at("name").get<std::string>());
  const InputRecords known = records(given.at("records"));
  std::array<std::vector<float>, kModalities> values;
  Inputs inputs;
  inputs.batch = given.at("batch").get<std::size_t>();
  std::optional<FloatView>* const views[] = {&inputs.text, &inputs.audio, &inputs.vision};
  std::array<float*, kModalities> buffers;
  std::array<std::vector<float>, kModalities> copies;
  for (std::size_t i = 0; i < kModalities; ++i) {
    const Json& array = given.at("values").at(kModalityNames[i]);
    if (!array.is_null()) {
      values[i] = numbers(array);
      *views[i] = FloatView(values[i].data(), values[i].size());
    }
    copies[i].resize(inputs.batch * known[i].info.steps * known[i].info.features);
    buffers[i] = copies[i].data();
  }
  const Status status = check_inputs(inputs, known);
  if (given.contains("refusal")) {
    EXPECT_EQ(status.message(), given.at("refusal").get<std::string>());
    return;
  }
  ASSERT_TRUE(status.ok()) << status.message();
  copy_inputs(inputs, known, buffers);
  const RangeGuard guard(known);
  for (std::size_t i = 0; i < kModalities; ++i) {
    EXPECT_NEAR(guard.alarm(i, buffers[i], inputs.batch), given.at("alarms").value(kModalityNames[i], 0.0), 1e-12)
        << kModalityNames[i];
  }
}

void check_verdict(const Json& given) {
  SCOPED_TRACE(given.at("name").get<std::string>());
  const Json& expected = given.at("verdict");
  const GraphCheck found = check_outputs("g", given.at("precision").get<std::string>(), tensors(given.at("found")),
                                         tensors(given.at("recorded")), given.at("output_sd").get<double>(),
                                         given.at("only_stores_int8").get<bool>(), given.at("engine").get<bool>());
  EXPECT_EQ(found.passed, expected.at("passed").get<bool>());
  EXPECT_EQ(found.worst_output, expected.at("worst_output").get<std::string>());
  const Json& error = expected.at("max_error");
  if (error.is_null()) {
    EXPECT_EQ(found.max_error, kInfinity);
  } else {
    EXPECT_NEAR(found.max_error, error.get<double>(), 1e-12);
  }
  EXPECT_NEAR(found.tolerance, expected.at("tolerance").get<double>(), 1e-12);
  const Json& correlation = expected.at("correlation");
  ASSERT_EQ(found.correlation.has_value(), !correlation.is_null());
  if (found.correlation) {
    EXPECT_NEAR(*found.correlation, correlation.get<double>(), 1e-9);
  }
}

StreamOptions stream_options(const Json& given) {
  const auto number = [&](const char* key) {
    return given.at(key).is_null() ? std::optional<double>() : given.at(key).get<double>();
  };
  StreamOptions options;
  for (std::size_t i = 0; i < kModalities; ++i) {
    options.missing[i] = given.at("missing").at(kModalityNames[i]).get<std::string>();
  }
  options.step_s = number("step_s");
  options.tolerance_s = number("tolerance_s");
  return options;
}

// The inputs of tests/vectors/arrivals.py.
InputRecords stream_records() {
  InputRecords result;
  for (std::size_t i = 0; i < kModalities; ++i) {
    result[i].info.name = kModalityNames[i];
    result[i].info.steps = 9;
    result[i].info.features = i == 0 ? 2 : 1;
    result[i].info.may_be_absent = i == 1;
  }
  return result;
}

void check_arrivals(const Json& given) {
  SCOPED_TRACE(given.at("name").get<std::string>());
  const InputRecords known = stream_records();
  Arrivals arrivals(known, stream_options(given.at("options")));
  for (std::size_t at = 0; at < given.at("pushes").size(); ++at) {
    SCOPED_TRACE(at);
    const Json& push = given.at("pushes")[at];
    const Json& expected = given.at("outcomes")[at];
    std::array<std::vector<float>, kModalities> values;
    Steps steps;
    steps.count = push.at("count").get<std::size_t>();
    std::optional<FloatView>* const views[] = {&steps.text, &steps.audio, &steps.vision};
    const Json& time = push.at("time");
    for (std::size_t i = 0; i < kModalities; ++i) {
      const char* name = kModalityNames[i];
      if (time.is_number()) steps.time_s[i] = time.get<double>();
      if (time.is_object() && time.contains(name)) steps.time_s[i] = time.at(name).get<double>();
      if (push.at(name).is_null()) continue;
      values[i] = numbers(push.at(name));
      *views[i] = FloatView(values[i].data(), values[i].size());
    }
    Arrival arrival;
    const Status status = arrivals.take(steps, arrival);
    if (expected.contains("refusal")) {
      EXPECT_EQ(status.message(), expected.at("refusal").get<std::string>());
      continue;
    }
    ASSERT_TRUE(status.ok()) << status.message();
    arrivals.accept();
    for (std::size_t i = 0; i < kModalities; ++i) {
      const char* name = kModalityNames[i];
      const std::vector<float> rows(arrival.rows[i], arrival.rows[i] + arrival.count * known[i].info.features);
      EXPECT_EQ(rows, numbers(expected.at("rows").at(name))) << name;
      const char* const fillings[] = {"", "hold", "absent"};
      EXPECT_EQ(fillings[static_cast<int>(arrival.filled[i])], expected.at("filled").value(name, std::string())) << name;
    }
    const std::optional<double>& now = arrivals.clock().now;
    ASSERT_EQ(now.has_value(), !expected.at("now").is_null());
    if (now) {
      EXPECT_NEAR(*now, expected.at("now").get<double>(), 1e-12);
    }
  }
}

TEST(VectorsTest, Arrivals) {
  for (const Json& given : cases("arrivals.json", "arrivals")) check_arrivals(given);
}

TEST(VectorsTest, RangeAlarms) {
  for (const Json& given : cases("range_alarms.json", "inputs")) check_input(given);
}

TEST(VectorsTest, Padding) {
  for (const Json& given : cases("padding.json", "inputs")) check_input(given);
}

TEST(VectorsTest, Absence) {
  for (const Json& given : cases("absence.json", "inputs")) check_input(given);
}

TEST(VectorsTest, ExplainGraph) {
  for (const Json& given : cases("explain_graph.json", "explains")) {
    SCOPED_TRACE(given.at("name").get<std::string>());
    Manifest manifest;
    const auto add = [&](const std::string& kind, const std::string& precision, const std::string& verdict) {
      GraphRecord record;
      record.kind = kind;
      record.precision = precision;
      record.verdict = verdict;
      manifest.graphs.emplace_back(kind + "." + precision, record);
    };
    for (const char* precision : {"fp32", "int8-cpu"}) add("fusion", precision, "passed");
    for (const auto& [precision, verdict] : given.at("verdicts").items()) add("explain", precision, verdict.get<std::string>());
    std::string found;
    std::string refusal;
    try {
      found = explain_graph(manifest, "fusion." + given.at("precision").get<std::string>(), given.at("asked_for").get<bool>());
    } catch (const Failure& cause) {
      refusal = cause.what();
    }
    EXPECT_EQ(found, given.value("graph", ""));
    EXPECT_EQ(refusal, given.value("refusal", ""));
  }
}

TEST(VectorsTest, SelfCheck) {
  for (const Json& given : cases("self_check.json", "self_checks")) check_verdict(given);
}

TEST(VectorsTest, NonFinite) {
  for (const Json& given : cases("non_finite.json", "inputs")) check_input(given);
  for (const Json& given : cases("non_finite.json", "self_checks")) check_verdict(given);
}

}  // namespace
}  // namespace dmdkit
