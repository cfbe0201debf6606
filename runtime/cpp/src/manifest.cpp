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
const std::set<std::string> kKinds = {"fusion", "explain", "gd_homo", "gd_hetero", "text", "stream"};
const std::set<std::string> kPrecisions = {"fp32", "fp16", "int8-cpu", "int8-trt"};
// Names in `requires` that this version fulfils, as in dmdkit.runtime.format_version.
constexpr char kRealSteps[] = "real-steps";
const std::set<std::string> kKnownRequirements = {"text-lengths", kRealSteps};

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
  record.info.may_be_absent = fields.has("trained_absent") && fields.boolean("trained_absent");
  read_range(fields, record);
  return record;
}

// Nothing for a graph of a kind or precision that only a later minor version knows.
std::optional<GraphRecord> read_graph(const Json& value, const std::string& name, bool later) {
  JsonFields fields(value, "graphs." + name);
  GraphRecord record;
  record.kind = fields.text("kind");
  record.precision = fields.text("precision");
  const bool known = kKinds.count(record.kind) != 0 && kPrecisions.count(record.precision) != 0;
  if (!known && later) return std::nullopt;
  if (!known) {
    throw Malformed("graphs." + name, "unknown kind or precision " + in_quotes(record.kind + "." + record.precision));
  }
  record.file = fields.text("file");
  record.only_stores_int8 = fields.number("multiply_adds_int8", 0.0, 1.0) == 0.0 && record.precision == "int8-cpu";
  if (fields.has("session_options")) record.session_options = fields.text_map("session_options");
  for (const auto& [option, setting] : record.session_options) {
    if (kSessionOptions.count(option) == 0)
      throw Malformed(fields.place("session_options"), "unknown option " + in_quotes(option));
  }
  JsonFields verdict(fields.child("verdict"), fields.place("verdict"));
  record.verdict = verdict.one_of("status", {"passed", "failed", "unverified"});
  if (fields.has("backends") && fields.child("backends").is_object()) {
    // Verdicts that are not understood prove nothing; what they are is Python's to check.
    for (const auto& [backend, proof] : fields.child("backends").items()) {
      if (proof.is_object() && proof.contains("status") && proof["status"] == "passed") record.passed_on.push_back(backend);
    }
  }
  if (name != record.kind + "." + record.precision) {
    throw Malformed("", "graphs." + in_quotes(name) + " describes " + record.kind + "." + record.precision);
  }
  return record;
}

// A state is as large as the model's window, so that no manifest can ask for more memory than a window's sizes explain.
constexpr std::uint64_t kMaxStateValues = std::uint64_t{1} << 28;
constexpr std::size_t kMaxStateTensors = 56;  // with the inputs, what a session takes

StreamRecord read_stream(const Json& value, const Manifest& manifest, bool later) {
  JsonFields fields(value, "stream");
  StreamRecord stream;
  stream.kernel = fields.size("kernel");
  stream.capacity = fields.size("capacity");
  for (const InputRecord& input : manifest.inputs) {
    if (stream.capacity + stream.kernel - 1 != input.info.steps) {
      throw Malformed("stream", "kernel " + std::to_string(stream.kernel) + " and capacity " + std::to_string(stream.capacity) +
                                    " are not those of " + std::to_string(input.info.steps) + " steps of " + input.info.name);
    }
  }
  const Json& state = fields.child("state");
  if (!state.is_array() || state.empty() || state.size() > kMaxStateTensors) {
    throw Malformed("stream.state", "expected a list of 1 to " + std::to_string(kMaxStateTensors) + " tensors");
  }
  std::uint64_t values = 0;
  std::set<std::string> names;
  for (const Json& entry : state) {
    JsonFields tensor(entry, "stream.state");
    StateRecord record;
    record.name = tensor.text("name");
    record.heads = tensor.size("heads");
    record.width = tensor.size("width");
    const std::uint64_t channels = std::uint64_t{record.heads} * record.width;  // of sizes below 2^31
    values += channels > kMaxStateValues ? channels : channels * stream.capacity;
    if (values > kMaxStateValues) throw Malformed("stream.state", "more than " + std::to_string(kMaxStateValues) + " values");
    if (!names.insert(record.name).second) throw Malformed("stream.state", in_quotes(record.name) + " is there twice");
    stream.state.push_back(std::move(record));
  }
  const Json& graphs = fields.child("graphs");
  if (!graphs.is_object()) throw Malformed("stream.graphs", "expected an object");
  for (const auto& [precision, graph] : graphs.items()) {
    auto record = read_graph(graph, "stream." + precision, later);
    if (!record) continue;
    if (record->kind != "stream") throw Malformed("stream.graphs." + precision, "describes another graph than a step graph");
    stream.graphs.emplace_back("stream." + precision, std::move(*record));
  }
  return stream;
}

void read_golden(const Json& value, Manifest& manifest) {
  JsonFields fields(value, "golden");
  manifest.golden_file = fields.text("file");
  manifest.golden_samples = fields.size("samples");
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

void read_inputs(const Json& value, Manifest& manifest) {
  JsonFields fields(value, "inputs");
  for (std::size_t i = 0; i < kModalities; ++i) {
    manifest.inputs[i] = read_input(fields.child(kModalityNames[i]), kModalityNames[i]);
  }
}

text::TextRecord read_text(const Json& value, const Manifest& manifest) {
  JsonFields fields(value, "text");
  text::TextRecord record;
  record.tokenizer = fields.text("tokenizer");
  record.max_tokens = fields.size("max_tokens");
  record.vocabulary_size = fields.size("vocabulary_size");
  record.pad_id = static_cast<std::int64_t>(fields.count("pad_id"));
  record.pads_left = fields.one_of("padding_side", {"left", "right"}) == "left";
  const bool zeroed = fields.one_of("padded_steps", {"zero", "encoded"}) == "zero";
  record.any_length = fields.has("lengths") && fields.one_of("lengths", {"fixed", "dynamic"}) == "dynamic";
  if (record.any_length && !(zeroed && record.pads_left)) {
    throw Malformed("text", "lengths: only where padding is on the left and comes out as zeros are they dynamic");
  }
  const std::size_t steps = manifest.inputs[0].info.steps;
  if (record.max_tokens != steps) {
    throw Malformed("text", std::to_string(record.max_tokens) + " tokens for the model's " + std::to_string(steps) + " steps");
  }
  if (static_cast<std::uint64_t>(record.pad_id) >= record.vocabulary_size) {
    throw Malformed("text", "pad_id " + std::to_string(record.pad_id) + " is not one of " +
                                std::to_string(record.vocabulary_size) + " tokens");
  }
  if (manifest.files.count(record.tokenizer) == 0) {
    throw Malformed("text", in_quotes(record.tokenizer) + " is not listed under files");
  }
  return record;
}

// Refuses what this version would misunderstand; the fields it does not read are for others to check.
std::set<std::string> read_requirements(const Json& value, const std::string& where) {
  std::set<std::string> required;
  if (!value.is_array()) throw Malformed("requires", "expected a list");
  for (const Json& entry : value) {
    JsonFields fields(entry, "requires");
    const std::string name = fields.text("name");
    const std::string since = fields.text("since");
    required.insert(name);
    if (kKnownRequirements.count(name) != 0) continue;
    throw Failure(StatusCode::kBundleVersion, where + ": it requires " + in_quotes(name.substr(0, 60)) +
                                                  ", which this dmdkit does not know; use dmdkit " +
                                                  printable(since.substr(0, 20)) + " or newer");
  }
  return required;
}

// The kernel of a model trained on real steps, whose modalities are equally long.
std::size_t read_kernel(const Json& model, const Manifest& manifest) {
  JsonFields kernels(JsonFields(model, "model").child("kernels"), "model.kernels");
  const std::size_t kernel = kernels.size("text");
  for (const InputRecord& input : manifest.inputs) {
    if (input.info.steps == manifest.inputs[0].info.steps && kernel <= input.info.steps) continue;
    throw Malformed("inputs." + input.info.name,
                    "a model of real steps has equally many in every modality, its kernel or more");
  }
  return kernel;
}

Manifest read_values(const Json& value, const std::string& where) {
  JsonFields fields(value, "");
  Manifest manifest;
  if (fields.has("requires")) {
    manifest.real_steps = read_requirements(fields.child("requires"), where).count(kRealSteps) != 0;
  }
  if (fields.has("schema_minor")) manifest.schema_minor = fields.count("schema_minor");
  const bool later = manifest.schema_minor > DMDKIT_MANIFEST_SCHEMA_MINOR;
  if (later) {
    manifest.notes.push_back(where + ": of format 1." + std::to_string(manifest.schema_minor) + ", this dmdkit reads 1." +
                             std::to_string(DMDKIT_MANIFEST_SCHEMA_MINOR) + ": it leaves out what it does not know");
  }
  manifest.name = fields.text("name");
  manifest.num_outputs = JsonFields(fields.child("model"), "model").count("num_outputs", 1, kMaxInputValues);
  manifest.task = read_task(fields);
  const Json& outputs = fields.child("outputs");
  if (!outputs.is_object()) throw Malformed("outputs", "expected an object");
  if (outputs.contains("score")) {
    JsonFields score(outputs.at("score"), "outputs.score");
    std::vector<std::string> order;
    if (!score.is_null("order")) order = score.texts("order");
    if (order.size() == manifest.num_outputs) manifest.task.labels = std::move(order);
  }
  manifest.output_sd = fields.number("output_sd", 0.0, kAnyNumber);
  read_orders(fields, manifest);
  read_inputs(fields.child("inputs"), manifest);
  if (manifest.real_steps) manifest.kernel = read_kernel(fields.child("model"), manifest);
  manifest.files = read_files(fields.child("files"));
  if (!fields.is_null("text")) manifest.text = read_text(fields.child("text"), manifest);
  const Json& graphs = fields.child("graphs");
  if (!graphs.is_object()) throw Malformed("graphs", "expected an object");
  for (const auto& [name, graph] : graphs.items()) {
    auto record = read_graph(graph, name, later);
    if (record && record->kind == "stream") throw Malformed("graphs." + name, "a step graph stands under stream");
    if (record) manifest.graphs.emplace_back(name, std::move(*record));
  }
  if (!fields.is_null("stream")) manifest.stream = read_stream(fields.child("stream"), manifest, later);
  read_golden(fields.child("golden"), manifest);

  const auto check_listed = [&](const auto& listed) {
    for (const auto& [name, graph] : listed) {
      if (manifest.files.count(graph.file) != 0) continue;
      throw Malformed("", "graphs." + name + ": " + in_quotes(graph.file) + " is not listed under files");
    }
  };
  check_listed(manifest.graphs);
  if (manifest.stream) check_listed(manifest.stream->graphs);
  if (manifest.text.has_value() != (manifest.find_graph("text.fp32") != nullptr)) {
    throw Malformed("text", "a text encoder's record and its graph text.fp32 go together");
  }
  if (manifest.files.count(manifest.golden_file) == 0) {
    throw Malformed("", "golden: " + in_quotes(manifest.golden_file) + " is not listed under files");
  }
  return manifest;
}

}  // namespace

const GraphRecord* Manifest::find_graph(const std::string& graph) const noexcept {
  const auto find = [&](const auto& listed) -> const GraphRecord* {
    const auto found = std::find_if(listed.begin(), listed.end(), [&](const auto& entry) { return entry.first == graph; });
    return found == listed.end() ? nullptr : &found->second;
  };
  const GraphRecord* found = find(graphs);
  return found == nullptr && stream ? find(stream->graphs) : found;
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
    return read_values(value, where);
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
