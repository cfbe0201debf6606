#include "engine_record.hpp"

#include <limits>

#include "failure.hpp"
#include "json_fields.hpp"
#include "strict_json.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxBatch = 1024;
constexpr std::uint64_t kMaxAxis = std::uint64_t{1} << 20;
constexpr std::size_t kMaxRank = 8;
constexpr double kAnyNumber = std::numeric_limits<double>::max();

const Json& list_of(JsonFields& fields, const std::string& key) {
  const Json& value = fields.child(key);
  if (!value.is_array()) throw Malformed(fields.place(key), "expected a list");
  return value;
}

bool is_plain_file_name(const std::string& name) {
  constexpr char kFirst[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  return !name.empty() && name.size() < 256 && std::string(kFirst).find(name[0]) != std::string::npos &&
         name.find_first_not_of(std::string(kFirst) + ".-") == std::string::npos;
}

// The batch as -1, then sizes.
void check_shape(const Json& shape, const std::string& place) {
  bool good = !shape.empty() && shape.size() <= kMaxRank && shape[0] == -1;
  for (std::size_t axis = 1; good && axis < shape.size(); ++axis) {
    good = shape[axis].is_number_unsigned() && shape[axis] >= 1 && shape[axis] <= kMaxAxis;
  }
  if (!good) throw Malformed(place, "expected -1 for the batch and sizes from 1 to " + std::to_string(kMaxAxis));
}

void check_tensors(JsonFields& fields, const std::string& key) {
  for (const Json& value : list_of(fields, key)) {
    JsonFields tensor(value, fields.place(key));
    tensor.text("name");
    check_shape(list_of(tensor, "shape"), fields.place(key));
    tensor.text("dtype");
    tensor.finish();
  }
}

void check_products(JsonFields& fields) {
  for (const Json& value : list_of(fields, "products")) {
    JsonFields product(value, "products");
    product.text("name");
    product.count("multiply_adds");
    product.boolean("int8");
    product.finish();
  }
}

void check_flags(const Json& value) {
  if (!value.is_object()) throw Malformed("flags", "expected an object");
  for (const Json& flag : value) {
    if (!flag.is_string() && !flag.is_number_integer() && !flag.is_boolean()) {
      throw Malformed("flags", "expected texts, integers, true or false");
    }
  }
}

void check_latency(const Json& value) {
  JsonFields fields(value, "latency_ms");
  for (const auto& item : value.items()) fields.number(item.key(), -kAnyNumber, kAnyNumber);
}

void read_precision(const Json& value, EngineRecord& record) {
  JsonFields fields(value, "precision");
  fields.one_of("layout", {"tensorrt-10", "tensorrt-11"});
  fields.text_map("layers");
  fields.number("expected_int8", 0.0, 1.0);
  fields.number("found_int8", 0.0, 1.0);
  record.precision_passed = fields.one_of("status", {"passed", "failed"}) == "passed";
  record.precision_reason = fields.text("reason");
  fields.finish();
}

void read_check(const Json& value, EngineRecord& record) {
  JsonFields fields(value, "check");
  record.check_passed = fields.boolean("passed");
  fields.count("samples");
  if (fields.is_given("max_error")) fields.number("max_error", -kAnyNumber, kAnyNumber);
  fields.number("tolerance", -kAnyNumber, kAnyNumber);
  record.check_worst_output = fields.text("worst_output");
  fields.finish();
}

// Smallest, tuned and largest.
void check_profile(JsonFields& fields, const char* name, std::uint64_t largest) {
  const Json& sizes = list_of(fields, name);
  if (sizes.size() != 3) throw Malformed(name, "expected three sizes");
  std::uint64_t smaller = 1;
  for (const Json& size : sizes) {
    if (!size.is_number_unsigned() || size < smaller || size > largest) {
      throw Malformed(name, "expected smallest, tuned and largest, from 1 to " + std::to_string(largest));
    }
    smaller = size.get<std::uint64_t>();
  }
}

EngineRecord read_values(const Json& value) {
  JsonFields fields(value, "");
  EngineRecord record;
  fields.child("schema_version");
  if (!is_plain_file_name(fields.text("target"))) throw Malformed("target", "expected a plain name");
  record.graph = fields.text("graph");
  record.graph_sha256 = fields.sha256("graph_sha256");
  fields.sha256("model_sha256");
  record.flavour = fields.one_of("flavour", {"tensorrt", "tensorrt_rtx"});
  record.version = fields.text("version");
  record.compute_capabilities = fields.texts("compute_capabilities");
  record.platform = fields.text("platform");
  if (fields.is_given("gpu")) record.gpu = fields.text("gpu");
  if (fields.is_given("driver")) fields.text("driver");
  record.plan = fields.text("plan");
  if (!is_plain_file_name(record.plan)) throw Malformed("plan", "expected a plain file name");
  record.plan_sha256 = fields.sha256("plan_sha256");
  record.plan_bytes = fields.count("plan_bytes", 1);
  check_profile(fields, "batch", kMaxBatch);
  if (!fields.is_null("lengths")) check_profile(fields, "lengths", kMaxAxis);
  check_flags(fields.child("flags"));
  check_tensors(fields, "inputs");
  check_tensors(fields, "outputs");
  check_products(fields);
  fields.sha256("cache_key");
  fields.text("built");
  fields.number("build_seconds", -kAnyNumber, kAnyNumber);
  if (!fields.is_null("precision")) read_precision(fields.child("precision"), record);
  if (!fields.is_null("check")) read_check(fields.child("check"), record);
  if (!fields.is_null("latency_ms")) check_latency(fields.child("latency_ms"));
  if (fields.has("notes")) fields.texts("notes");
  fields.finish();
  return record;
}

}  // namespace

EngineRecord parse_engine_record(const unsigned char* data, std::size_t size, const std::string& where) {
  const auto refuse = [&](const std::string& cause) {
    return Failure(StatusCode::kBundleDamaged, where + ": " + cause + "; build the engine again");
  };
  std::string problem;
  const Json value = parse_strict_json(data, size, problem);
  if (value.is_discarded()) throw refuse("not JSON: " + printable(problem.substr(0, 100)));
  const auto version = value.is_object() ? value.find("schema_version") : value.end();
  if (version == value.end() || !version->is_number_unsigned() || *version != 1) {
    throw Failure(StatusCode::kBundleVersion,
                  where + ": this dmdkit reads sidecars of schema version 1; build the engine again");
  }
  try {
    return read_values(value);
  } catch (const Malformed& cause) {
    throw refuse(printable(std::string(cause.what()).substr(0, 300)));
  }
}

}  // namespace dmdkit
