#include "bundle.hpp"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"
#include "sha256.hpp"

namespace dmdkit {
namespace {

// A protocol buffer, hence an ONNX file, is at most 2 GiB; nothing else in a bundle comes near.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{2} << 30;

// The key under which ONNX says where a tensor's external data lies. No other part of our graphs is called so, and there is no
// other way to write it: looking for the word refuses every graph that has any.
constexpr std::string_view kExternal = "location";

bool is_graph(const Manifest& manifest, const std::string& name) {
  const auto is_file = [&](const auto& graph) { return graph.second.file == name; };
  return std::any_of(manifest.graphs.begin(), manifest.graphs.end(), is_file) ||
         (manifest.stream && std::any_of(manifest.stream->graphs.begin(), manifest.stream->graphs.end(), is_file));
}

// What `auto` prefers among the graphs that passed parity; int8-trt belongs to TensorRT, a CPU only simulates it.
constexpr const char* kAutoOrder[] = {"int8-cpu", "fp32"};

std::vector<std::string> split(const std::string& key) {
  std::vector<std::string> parts(1);
  for (const char c : key) {
    if (c == '/') {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

void check_samples(const std::string& key, const Tensor& tensor, std::size_t samples) {
  if (tensor.shape.size() < 2 || tensor.shape[0] != samples || !all_finite(tensor.values)) {
    throw Malformed(in_quotes(key), "expected finite values of " + std::to_string(samples) + " samples");
  }
}

// Every golden sentence is one that the text graphs can be fed.
void check_tokens(const Golden& golden, const Manifest& manifest) {
  const std::vector<std::size_t> shape = {manifest.golden_samples, manifest.text->max_tokens};
  for (const char* name : {"input_ids", "attention_mask"}) {
    const auto found = golden.tokens.find(name);
    const std::int64_t end = name[0] == 'i' ? static_cast<std::int64_t>(manifest.text->vocabulary_size) : 2;
    const auto is_other = [&](std::int64_t value) { return value < 0 || value >= end; };
    if (found == golden.tokens.end() || found->second.shape != shape ||
        std::any_of(found->second.values.begin(), found->second.values.end(), is_other)) {
      throw Malformed("", std::string("input/text/") + name + " is missing or does not have shape (" + std::to_string(shape[0]) +
                              ", " + std::to_string(shape[1]) + "), or holds what no token is");
    }
  }
}

// Whatever a self-check will use is there and fits.
void check_golden(const Golden& golden, const Manifest& manifest) {
  for (const InputRecord& record : manifest.inputs) {
    const InputInfo& info = record.info;
    const auto found = golden.inputs.find(info.name);
    if (found == golden.inputs.end() ||
        found->second.shape != std::vector<std::size_t>{manifest.golden_samples, info.steps, info.features}) {
      throw Malformed("", "input/" + info.name + " is missing or does not have shape (" +
                              std::to_string(manifest.golden_samples) + ", " + std::to_string(info.steps) + ", " +
                              std::to_string(info.features) + ")");
    }
  }
  for (const auto& [name, graph] : manifest.graphs) {
    if (golden.recorded.count(name) == 0) throw Malformed("", "nothing is recorded of " + name);
    const bool takes_features = graph.kind == "fusion" || graph.kind == "explain";
    if (!takes_features && graph.kind != "text" && golden.unit_inputs.count(graph.kind) == 0) {
      throw Malformed("", "the inputs of " + name + " are missing");
    }
  }
  if (manifest.text) check_tokens(golden, manifest);
}

}  // namespace

const std::map<std::string, Tensor>& Golden::inputs_of(const std::string& kind) const {
  const auto found = unit_inputs.find(kind);
  return found == unit_inputs.end() ? inputs : found->second;
}

Bundle Bundle::open(const std::string& path) {
  Bundle bundle(path, read_manifest(path));
  for (const auto& [name, record] : bundle.manifest_.files) {
    const std::string file = bundle.file(name);
    std::error_code problem;
    const bool exists = std::filesystem::exists(file, problem);
    if (problem) {
      throw Failure(StatusCode::kFileUnreadable, path + ": " + name + " cannot be read: " + problem.message());
    }
    if (!exists) {
      throw Failure(StatusCode::kBundleDamaged,
                    path + ": " + name + " is missing; copy the whole directory, or export it again");
    }
    const std::optional<std::uint64_t> size = regular_file_size(file);
    if (!size || !stays_inside(file, path)) {
      throw Failure(StatusCode::kBundleDamaged,
                    path + ": " + name + " is not a file of the bundle itself, or a link that leaves it; copy the file");
    }
    if (*size != record.size_bytes) {
      throw Failure(StatusCode::kBundleDamaged, path + ": " + name + " has " + std::to_string(*size) +
                                                    " bytes, the manifest says " + std::to_string(record.size_bytes) +
                                                    "; it was truncated or edited: copy it again, or export it again");
    }
  }
  return bundle;
}

Bytes Bundle::read(const std::string& name) const {
  const FileRecord& record = manifest_.files.at(name);
  if (record.size_bytes > kMaxFileBytes) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + " is larger than " + std::to_string(kMaxFileBytes) + " bytes");
  }
  ReadOutcome outcome = read_file(file(name), record.size_bytes);  // no more, should it have grown since open
  if (outcome.error != 0) {
    throw Failure(StatusCode::kFileUnreadable, path_ + ": " + name + " cannot be read: " + error_text(outcome.error));
  }
  Sha256 hash;
  hash.update(outcome.bytes.data(), outcome.bytes.size());
  if (outcome.too_large || hash.hex_digest() != record.sha256) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + " is not the file that was exported (its SHA-256 differs); copy or export it again");
  }
  const std::string_view content(reinterpret_cast<const char*>(outcome.bytes.data()), outcome.bytes.size());
  if (is_graph(manifest_, name) && content.find(kExternal) != std::string_view::npos) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + " reads weights from a file outside itself, which no hash covers; export the bundle again");
  }
  return std::move(outcome.bytes);
}

Golden Bundle::golden() const {
  const std::string& name = manifest_.golden_file;
  const Bytes bytes = read(name);
  try {
    Golden golden;
    IntegerTensors integers;
    Tensors tensors = parse_safetensors(bytes.data(), bytes.size(), nullptr, &integers);
    for (const auto& [key, tensor] : tensors) check_samples(key, tensor, manifest_.golden_samples);
    if (tensors.count("reference/score") == 0) throw Malformed("", "reference/score is missing");
    for (auto& [key, tensor] : tensors) {
      const std::vector<std::string> parts = split(key);
      if (parts.size() == 2 && parts[0] == "input") {
        golden.inputs.emplace(parts[1], std::move(tensor));
      } else if (parts.size() == 3 && parts[0] == "input") {
        golden.unit_inputs[parts[1]].emplace(parts[2], std::move(tensor));
      } else if (parts.size() == 3 && parts[0] == "recorded") {
        golden.recorded[parts[1]].emplace(parts[2], std::move(tensor));
      } else if (parts.size() != 2 || parts[0] != "reference") {
        throw Malformed("", "unexpected tensor " + in_quotes(key));
      }
    }
    for (auto& [key, tensor] : integers) {
      const std::vector<std::string> parts = split(key);
      if (parts.size() == 3 && parts[0] == "input" && parts[1] == "text") golden.tokens.emplace(parts[2], std::move(tensor));
    }
    check_golden(golden, manifest_);
    return golden;
  } catch (const Malformed& cause) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + ": damaged: " + printable(cause.what()) + "; export the bundle again");
  }
}

const std::string& choose_graph(const Manifest& manifest, const std::string& kind, const std::string& wanted,
                                const std::string& prefer) {
  const auto find = [&](const std::string& name) {
    return std::find_if(manifest.graphs.begin(), manifest.graphs.end(), [&](const auto& entry) { return entry.first == name; });
  };
  std::string names;
  std::string states;
  for (const auto& [name, record] : manifest.graphs) {
    if (record.kind != kind) continue;
    names += (names.empty() ? "" : ", ") + name;
    states += (states.empty() ? "" : ", ") + name + " " + record.verdict;
  }
  if (!wanted.empty()) {
    auto found = find(wanted);
    if (found == manifest.graphs.end()) found = find(kind + "." + wanted);
    if (found == manifest.graphs.end() || found->second.kind != kind) {
      throw Failure(StatusCode::kGraphUnavailable,
                    "no " + kind + " graph " + in_quotes(wanted) + "; the bundle has " + (names.empty() ? "none" : names));
    }
    return found->first;
  }
  std::vector<std::string> order(std::begin(kAutoOrder), std::end(kAutoOrder));
  if (!prefer.empty()) order.insert(order.begin(), prefer);
  for (const std::string& precision : order) {
    const auto found = find(kind + "." + precision);
    if (found != manifest.graphs.end() && found->second.verdict == "passed") return found->first;
  }
  throw Failure(StatusCode::kGraphUnavailable, "no " + kind + " graph of this bundle has passed parity (" +
                                                   (states.empty() ? "it has none" : states) +
                                                   "); prove one with `dmdkit check`, or name one yourself (graph='fp32')");
}

const std::string& explain_graph(const Manifest& manifest, const std::string& predicting, bool asked_for) {
  const std::string& precision = manifest.find_graph(predicting)->precision;
  if (!asked_for) return choose_graph(manifest, "explain", "", precision);
  return choose_graph(manifest, "explain", manifest.find_graph("explain." + precision) != nullptr ? precision : "fp32");
}

bool has_explain_graph(const Manifest& manifest, const std::string& predicting, bool asked_for) {
  try {
    return !explain_graph(manifest, predicting, asked_for).empty();
  } catch (const Failure&) {
    return false;
  }
}

}  // namespace dmdkit
