#include "manifest.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>

#include "dmdkit/version.h"
#include "failure.hpp"
#include "files.hpp"
#include "json_fields.hpp"
#include "strict_json.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr double kAnyNumber = std::numeric_limits<double>::max();
// More values per sample than any recording has; keeps sizes far from overflow whatever a manifest says.
constexpr std::uint64_t kMaxInputValues = std::uint64_t{1} << 28;
constexpr double kMaxLimit = 3.4e38;  // of a training range, which float32 holds
// What a bundle may set; other entries name files to read or libraries to load, which is not for a bundle to decide.
const std::set<std::string> kSessionOptions = {"optimization.disable_specified_optimizers", "session.disable_quant_qdq",
                                               "session.enable_quant_qdq_cleanup", "session.set_denormal_as_zero"};

using PerModality = std::array<std::uint64_t, kModalities>;

// What the rest of the manifest must agree with.
struct ModelShape {
  PerModality features;
  PerModality steps;
  std::size_t outputs = 0;
};

PerModality per_modality(JsonFields& model, const std::string& key) {
  JsonFields fields(model.child(key), model.place(key));
  PerModality result;
  for (std::size_t i = 0; i < kModalities; ++i) result[i] = fields.count(kModalityNames[i], 1);
  fields.finish();
  return result;
}

ModelShape read_model(const Json& value) {
  JsonFields fields(value, "model");
  ModelShape shape;
  shape.features = per_modality(fields, "feature_dims");
  shape.steps = per_modality(fields, "lengths");
  const PerModality kernels = per_modality(fields, "kernels");
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (kernels[i] > shape.steps[i]) {
      throw Malformed("model.kernels." + std::string(kModalityNames[i]), "longer than the steps of the modality");
    }
  }
  const std::uint64_t width = fields.count("width", 1);
  if (width % fields.count("heads", 1) != 0) throw Malformed("model", "heads does not divide width");
  fields.count("levels", 1);
  for (const char* key : {"gd_homo_width", "gd_hetero_width"}) {
    if (fields.has(key)) fields.count(key, 1);
  }
  shape.outputs = fields.count("num_outputs", 1, kMaxInputValues);
  fields.finish();
  return shape;
}

void read_source(const Json& value) {
  JsonFields fields(value, "source");
  fields.text("run");
  fields.one_of("origin", {"train", "import"});
  fields.sha256("model_sha256");
  if (fields.is_given("data_sha256")) fields.sha256("data_sha256");
  fields.text("created");
  fields.finish();
}

// The training range of a modality: both ends for every feature, or neither.
void read_range(JsonFields& fields, InputRecord& record) {
  for (auto& [key, target] : {std::pair{"minimum", &record.minimum}, std::pair{"maximum", &record.maximum}}) {
    if (fields.is_null(key)) continue;
    *target = fields.numbers(key);
    if ((*target)->size() != record.info.features) {
      throw Malformed(fields.place(), std::string(key) + " has " + std::to_string((*target)->size()) + " values for " +
                                          std::to_string(record.info.features) + " features");
    }
    const auto beyond = [](double limit) { return std::abs(limit) > kMaxLimit; };
    if (std::any_of((*target)->begin(), (*target)->end(), beyond)) throw Malformed(fields.place(key), "not a float32 value");
  }
  if (record.minimum.has_value() != record.maximum.has_value()) {
    throw Malformed(fields.place(), "minimum and maximum are known together or not at all");
  }
  for (std::size_t i = 0; record.minimum && i < record.minimum->size(); ++i) {
    if ((*record.minimum)[i] > (*record.maximum)[i]) throw Malformed(fields.place(), "a minimum is above its maximum");
  }
}

InputRecord read_input(const Json& value, const std::string& name) {
  JsonFields fields(value, "inputs." + name);
  InputRecord record;
  record.info.name = name;
  const std::uint64_t steps = fields.size("steps");
  const std::uint64_t features = fields.size("features");
  if (steps > kMaxInputValues || features > kMaxInputValues || steps * features > kMaxInputValues) {
    throw Malformed("inputs." + name, "more than " + std::to_string(kMaxInputValues) + " values per sample");
  }
  record.info.steps = steps;
  record.info.features = features;
  if (fields.has("dtype")) fields.one_of("dtype", {"float32"});
  record.info.padding_side = "unknown";
  if (fields.has("padding_side")) {
    record.info.padding_side = fields.one_of("padding_side", {"left", "right", "none", "unknown"});
  }
  if (fields.has("normalisation")) fields.one_of("normalisation", {"none", "standardise"});
  record.info.may_be_absent = fields.has("trained_absent") && fields.boolean("trained_absent");
  read_range(fields, record);
  if (fields.has("provenance")) fields.text_map("provenance");
  fields.finish();
  return record;
}

// The names along the axis after batch, if the bundle has them.
std::vector<std::string> read_output(const Json& value, const std::string& name) {
  JsonFields fields(value, "outputs." + name);
  fields.text("meaning");
  const Json& shape = fields.child("shape");
  if (!shape.is_array()) throw Malformed("outputs." + name + ".shape", "expected a list");
  for (const Json& size : shape) {
    if (!size.is_number_integer() && !size.is_string()) throw Malformed("outputs." + name + ".shape", "expected sizes");
  }
  std::vector<std::string> order;
  if (!fields.is_null("order")) order = fields.texts("order");
  if (!fields.is_null("range")) fields.interval("range");
  fields.finish();
  return order;
}

std::string read_verdict(const Json& value, const std::string& place) {
  JsonFields fields(value, place);
  std::string status = fields.one_of("status", {"passed", "failed", "unverified"});
  fields.text("reason");
  fields.count("samples");
  if (!fields.is_null("data_sha256")) fields.sha256("data_sha256");
  fields.finish();
  return status;
}

GraphRecord read_graph(const Json& value, const std::string& name) {
  JsonFields fields(value, "graphs." + name);
  GraphRecord record;
  record.kind = fields.one_of("kind", {"fusion", "explain", "gd_homo", "gd_hetero", "text"});
  record.precision = fields.one_of("precision", {"fp32", "fp16", "int8-cpu", "int8-trt"});
  record.file = fields.text("file");
  for (const char* key : {"opset", "ir_version", "weight_bytes", "multiply_adds"}) fields.count(key);
  fields.number("weights_stored_int8", 0.0, 1.0);
  record.only_stores_int8 = fields.number("multiply_adds_int8", 0.0, 1.0) == 0.0 && record.precision == "int8-cpu";
  if (fields.has("session_options")) record.session_options = fields.text_map("session_options");
  for (const auto& [option, value] : record.session_options) {
    if (kSessionOptions.count(option) == 0)
      throw Malformed(fields.place("session_options"), "unknown option " + in_quotes(option));
  }
  if (fields.has("simulated_on_cpu")) fields.boolean("simulated_on_cpu");
  record.verdict = read_verdict(fields.child("verdict"), fields.place("verdict"));
  if (fields.has("backends")) {
    const Json& backends = fields.child("backends");
    if (!backends.is_object()) throw Malformed(fields.place("backends"), "expected an object");
    for (const auto& [backend, verdict] : backends.items()) {
      if (backend != "openvino") throw Malformed(fields.place("backends"), "unknown backend " + in_quotes(backend));
      read_verdict(verdict, fields.place("backends." + backend));
    }
  }
  fields.finish();
  if (name != record.kind + "." + record.precision) {
    throw Malformed("", "graphs." + in_quotes(name) + " describes " + record.kind + "." + record.precision);
  }
  return record;
}

TextRecord read_text(const Json& value) {
  JsonFields fields(value, "text");
  TextRecord record;
  record.tokenizer = fields.text("tokenizer");
  record.max_tokens = fields.size("max_tokens");
  const std::uint64_t vocabulary = fields.size("vocabulary_size");
  if (fields.count("pad_id") >= vocabulary) throw Malformed("text", "pad_id is not a token");
  fields.one_of("padding_side", {"left", "right"});
  fields.one_of("padded_steps", {"zero", "encoded"});
  fields.boolean("fine_tuned");
  fields.sha256("encoder_sha256");
  fields.finish();
  return record;
}

void read_calibration(const Json& value) {
  JsonFields fields(value, "calibration");
  fields.text("method");
  fields.texts("sample_ids");
  fields.sha256("content_sha256");
  fields.sha256("data_sha256");
  fields.texts("used_by");
  fields.finish();
}

void read_golden(const Json& value, Manifest& manifest) {
  JsonFields fields(value, "golden");
  manifest.golden_file = fields.text("file");
  fields.one_of("kind", {"real", "synthetic"});
  manifest.golden_samples = fields.size("samples");
  const std::size_t ids = fields.texts("ids").size();
  fields.finish();
  if (ids != manifest.golden_samples) {
    throw Malformed("golden", std::to_string(ids) + " ids for " + std::to_string(manifest.golden_samples) + " samples");
  }
}

std::map<std::string, FileRecord> read_files(const Json& value) {
  if (!value.is_object()) throw Malformed("files", "expected an object");
  std::map<std::string, FileRecord> files;
  for (const auto& [path, record] : value.items()) {
    if (!is_safe_path(path)) throw Malformed("files", "file name " + in_quotes(path) + " is not a plain relative path");
    JsonFields fields(record, "files." + path);
    FileRecord file;
    file.sha256 = fields.sha256("sha256");
    file.size_bytes = fields.count("size_bytes");
    fields.finish();
    files.emplace(path, std::move(file));
  }
  return files;
}

void read_orders(JsonFields& fields, Manifest& manifest) {
  const char* problem = "modality_order or edge_order is not text, vision, audio, the order of the graphs' outputs";
  // How every graph that was ever exported lays its outputs out. No graph says so itself: another order only mislabels answers.
  const std::vector<std::string> graph_order = {"text", "vision", "audio"};
  const std::vector<std::string> order = fields.texts("modality_order");
  if (order != graph_order) throw Malformed("", problem);
  std::copy(order.begin(), order.end(), manifest.modality_order.begin());
  const Json& edges = fields.child("edge_order");
  if (!edges.is_array() || edges.size() != kEdges) throw Malformed("", problem);
  std::size_t i = 0;
  for (const std::string& student : graph_order) {
    for (const std::string& teacher : graph_order) {
      if (student == teacher) continue;
      if (edges[i] != Json::array({student, teacher})) throw Malformed("", problem);
      manifest.edge_order[i++] = student + "<-" + teacher;
    }
  }
}

void check_text(const Manifest& manifest) {
  const bool has_graph = std::any_of(manifest.graphs.begin(), manifest.graphs.end(),
                                     [](const auto& entry) { return entry.second.kind == "text"; });
  if (manifest.text.has_value() != has_graph || manifest.text.has_value() != (manifest.find_graph("text.fp32") != nullptr)) {
    throw Malformed("text", "a text encoder's record and its graph text.fp32 go together");
  }
  if (!manifest.text) return;
  if (manifest.text->max_tokens != manifest.inputs[0].info.steps) {
    throw Malformed("text", std::to_string(manifest.text->max_tokens) + " tokens for the model's " +
                                std::to_string(manifest.inputs[0].info.steps) + " steps");
  }
  if (manifest.files.count(manifest.text->tokenizer) == 0) {
    throw Malformed("text", in_quotes(manifest.text->tokenizer) + " is not listed under files");
  }
}

TaskInfo read_task(JsonFields& fields) {
  TaskInfo task;
  task.name = fields.one_of("task", {"regression", "classification"});
  const bool ranged = fields.is_given("label_range");
  if (ranged != (task.name == "regression")) throw Malformed("label_range", "does not go with " + task.name);
  if (!ranged) return task;
  std::tie(task.low, task.high) = fields.interval("label_range");
  if (!(task.low < task.high)) throw Malformed("label_range", "is empty");
  return task;
}

void read_inputs(const Json& value, const ModelShape& model, Manifest& manifest) {
  JsonFields fields(value, "inputs");
  for (std::size_t i = 0; i < kModalities; ++i) {
    const char* name = kModalityNames[i];
    manifest.inputs[i] = read_input(fields.child(name), name);
    const InputInfo& info = manifest.inputs[i].info;
    if (info.steps != model.steps[i] || info.features != model.features[i]) {
      throw Malformed("", "inputs." + std::string(name) + " does not have the model's " + std::to_string(model.steps[i]) +
                              " steps of " + std::to_string(model.features[i]) + " features");
    }
  }
  fields.finish();
}

Manifest read_values(const Json& value) {
  JsonFields fields(value, "");
  Manifest manifest;
  fields.child("schema_version");
  manifest.name = fields.text("name");
  fields.text("created");
  fields.text_map("tools");
  read_source(fields.child("source"));
  const ModelShape model = read_model(fields.child("model"));
  manifest.num_outputs = model.outputs;
  manifest.task = read_task(fields);
  manifest.output_sd = fields.number("output_sd", 0.0, kAnyNumber);
  read_orders(fields, manifest);
  read_inputs(fields.child("inputs"), model, manifest);
  if (!fields.is_null("text")) manifest.text = read_text(fields.child("text"));
  const Json& outputs = fields.child("outputs");
  if (!outputs.is_object()) throw Malformed("outputs", "expected an object");
  for (const auto& [name, output] : outputs.items()) {
    std::vector<std::string> order = read_output(output, name);
    if (name == "score" && order.size() == model.outputs) manifest.task.labels = std::move(order);
  }
  manifest.files = read_files(fields.child("files"));
  const Json& graphs = fields.child("graphs");
  if (!graphs.is_object()) throw Malformed("graphs", "expected an object");
  for (const auto& [name, graph] : graphs.items()) manifest.graphs.emplace_back(name, read_graph(graph, name));
  if (fields.is_given("calibration")) read_calibration(fields.child("calibration"));
  read_golden(fields.child("golden"), manifest);
  fields.finish();

  for (const auto& [name, graph] : manifest.graphs) {
    if (manifest.files.count(graph.file) == 0) {
      throw Malformed("", "graphs." + name + ": " + in_quotes(graph.file) + " is not listed under files");
    }
  }
  check_text(manifest);
  manifest.inputs[0].encoded = manifest.text.has_value();
  if (manifest.files.count(manifest.golden_file) == 0) {
    throw Malformed("", "golden: " + in_quotes(manifest.golden_file) + " is not listed under files");
  }
  return manifest;
}

}  // namespace

const GraphRecord* Manifest::find_graph(const std::string& graph) const noexcept {
  const auto found = std::find_if(graphs.begin(), graphs.end(), [&](const auto& entry) { return entry.first == graph; });
  return found == graphs.end() ? nullptr : &found->second;
}

bool is_safe_path(const std::string& path) noexcept {
  bool part_start = true;
  for (const char c : path) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    if (part_start ? !word : !(word || c == '.' || c == '-' || c == '/')) return false;
    part_start = c == '/';
  }
  return !part_start;
}

Manifest parse_manifest(const unsigned char* data, std::size_t size, const std::string& where) {
  std::string problem;
  const Json value = parse_strict_json(data, size, problem);
  if (value.is_discarded()) {
    throw Failure(StatusCode::kBundleDamaged, where + ": damaged: " + printable(problem) + "; export the bundle again");
  }
  const Json* version = nullptr;
  if (value.is_object() && value.contains("schema_version")) version = &value.at("schema_version");
  if (version == nullptr || !version->is_number_unsigned() || *version != DMDKIT_MANIFEST_SCHEMA_VERSION) {
    std::string found = "None";
    if (version != nullptr) found = version->dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 40);
    throw Failure(StatusCode::kBundleVersion, where + ": schema version " + found + ", this dmdkit reads version " +
                                                  std::to_string(DMDKIT_MANIFEST_SCHEMA_VERSION) +
                                                  "; use the dmdkit that wrote the bundle, or export it again");
  }
  try {
    return read_values(value);
  } catch (const Malformed& cause) {
    throw Failure(StatusCode::kBundleDamaged,
                  where + ": damaged: " + printable(std::string(cause.what()).substr(0, 300)) + "; export the bundle again");
  }
}

Manifest read_manifest(const std::string& bundle) {
  const int problem = directory_error(bundle);
  if (problem == EACCES || problem == ELOOP || problem == EIO) {
    throw Failure(StatusCode::kFileUnreadable, bundle + ": cannot be read: " + error_text(problem));
  }
  if (problem != 0) {
    throw Failure(StatusCode::kBundleNotFound, bundle + ": no such bundle (expected a directory written by `dmdkit export`)");
  }
  const std::string path = bundle + "/" + kManifestFile;
  if (regular_file_size(path) && !stays_inside(path, bundle)) {
    throw Failure(StatusCode::kBundleDamaged,
                  path + ": not a file of the bundle itself, or a link that leaves it; copy the file");
  }
  ReadOutcome outcome = read_file(path, kMaxManifestBytes);
  if (outcome.too_large) {
    throw Failure(StatusCode::kBundleDamaged,
                  path + ": larger than " + std::to_string(kMaxManifestBytes) + " bytes, so it is no manifest");
  }
  if (outcome.error == ENOENT) {
    throw Failure(StatusCode::kBundleNotFound, bundle + ": not a bundle: " + std::string(kManifestFile) + " is missing");
  }
  if (outcome.error != 0) {
    throw Failure(StatusCode::kFileUnreadable, path + ": cannot be read: " + error_text(outcome.error));
  }
  return parse_manifest(outcome.bytes.data(), outcome.bytes.size(), path);
}

}  // namespace dmdkit
