#include "bundle.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "json_fields.hpp"
#include "sha256.hpp"

namespace dmdkit {
namespace {

// A protocol buffer, hence an ONNX file, is at most 2 GiB; nothing else in a bundle comes near.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{2} << 30;

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

}  // namespace

const std::map<std::string, Tensor>& Golden::inputs_of(const std::string& kind) const {
  const auto found = unit_inputs.find(kind);
  return found == unit_inputs.end() ? inputs : found->second;
}

Bundle Bundle::open(const std::string& path) {
  Bundle bundle(path, read_manifest(path));
  for (const auto& [name, record] : bundle.manifest_.files) {
    const std::string file = path + "/" + name;
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
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
  ReadOutcome outcome = read_file(path_ + "/" + name, kMaxFileBytes);
  if (outcome.too_large) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + " is larger than " + std::to_string(kMaxFileBytes) + " bytes");
  }
  if (outcome.error != 0) {
    throw Failure(StatusCode::kFileUnreadable, path_ + ": " + name + " cannot be read: " + error_text(outcome.error));
  }
  Sha256 hash;
  hash.update(outcome.bytes.data(), outcome.bytes.size());
  if (hash.hex_digest() != manifest_.files.at(name).sha256) {
    throw Failure(StatusCode::kBundleDamaged,
                  path_ + ": " + name + " is not the file that was exported (its SHA-256 differs); copy or export it again");
  }
  return std::move(outcome.bytes);
}

Golden Bundle::golden() const {
  const std::string& name = manifest_.golden_file;
  const Bytes bytes = read(name);
  try {
    Golden golden;
    for (auto& [key, tensor] : parse_safetensors(bytes.data(), bytes.size())) {
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
    return golden;
  } catch (const Malformed& cause) {
    throw Failure(StatusCode::kBundleDamaged, path_ + ": " + name + ": damaged: " + printable(cause.what()));
  }
}

const std::string& choose_graph(const Manifest& manifest, const std::string& kind, const std::string& wanted) {
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
  for (const char* precision : kAutoOrder) {
    const auto found = find(kind + "." + precision);
    if (found != manifest.graphs.end() && found->second.verdict == "passed") return found->first;
  }
  throw Failure(StatusCode::kGraphUnavailable, "no " + kind + " graph of this bundle has passed parity (" +
                                                   (states.empty() ? "it has none" : states) +
                                                   "); prove one with `dmdkit check`, or name one yourself (graph='fp32')");
}

}  // namespace dmdkit
