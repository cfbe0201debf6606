#include "engines.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <utility>

#include "failure.hpp"
#include "json_fields.hpp"
#include "sha256.hpp"

namespace dmdkit {
namespace {

constexpr char kEngines[] = "engines";
constexpr std::size_t kMaxEngines = 1000;
constexpr std::uint64_t kMaxPlanBytes = std::uint64_t{4} << 30;

// What is opened first where several engines fit, as in Python: fp16 is nearest to fp32 of the small forms.
constexpr const char* kEngineOrder[] = {"fp16", "int8-trt", "fp32"};

std::vector<std::string> sidecar_names(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code problem;
  for (std::filesystem::directory_iterator at(folder, problem), end; !problem && at != end; at.increment(problem)) {
    if (at->path().extension() == ".json") names.push_back(at->path().stem().string());
    if (names.size() >= kMaxEngines) break;
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Neither a sidecar nor a plan may be a link that leaves the folder of engines.
void refuse_link(const std::string& path, const std::string& folder) {
  if (!regular_file_size(path) || stays_inside(path, folder)) return;
  throw Failure(StatusCode::kBundleDamaged,
                path + ": not a file of this folder itself, or a link that leaves it; build the engine again");
}

EngineRecord read_record(const std::string& path, const std::string& folder) {
  refuse_link(path, folder);
  const ReadOutcome outcome = read_file(path, kMaxSidecarBytes);
  if (outcome.too_large) {
    throw Failure(StatusCode::kBundleDamaged,
                  path + ": larger than " + std::to_string(kMaxSidecarBytes) + " bytes, so it is no sidecar");
  }
  if (outcome.error != 0) {
    throw Failure(StatusCode::kFileUnreadable,
                  path + ": cannot be read: " + error_text(outcome.error) + "; build the engine again");
  }
  return parse_engine_record(outcome.bytes.data(), outcome.bytes.size(), path);
}

// Why the engine may not be opened, or an empty text.
std::string objection(const Engine& engine, const Manifest& manifest) {
  const EngineRecord& record = engine.record;
  const std::string who = "engine " + engine.name;
  const GraphRecord* graph = manifest.find_graph(record.graph);
  if (graph == nullptr || manifest.files.at(graph->file).sha256 != record.graph_sha256) {
    return who + " was built from another " + printable(record.graph) + " than this bundle's; build it again";
  }
  if (record.precision_passed == false) return who + " failed its precision proof: " + printable(record.precision_reason);
  if (record.check_passed == false) {
    return who + " failed its check on the golden samples (" + printable(record.check_worst_output) + " is off)";
  }
  if (record.platform != this_platform()) {
    return who + " is for " + printable(record.platform) + ", this is " + this_platform() + "; build it here";
  }
  if (!record.precision_passed || !record.check_passed) {
    return who + " has not run anywhere yet; open it once with dmdkit's Python on a device of its kind, which proves it";
  }
  return "";
}

}  // namespace

std::string this_platform() {
  ::utsname system{};
  if (::uname(&system) != 0) return "unknown";
  std::string text = std::string(system.sysname) + "-" + system.machine;
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::vector<Engine> engines_of(const Bundle& bundle, const std::string& graph, std::vector<std::string>& refused) {
  std::vector<Engine> found;
  const std::string folder = bundle.file(kEngines);
  if (!folder_stays_inside(folder, bundle.file(""))) {
    refused.push_back(folder + " is a link that leaves the bundle; remove it, or copy the folder");
    return found;
  }
  for (const std::string& name : sidecar_names(folder)) {
    try {
      Engine engine{printable(name), read_record(folder + "/" + name + ".json", folder)};
      if (engine.record.graph != graph) continue;
      std::string why_not = objection(engine, bundle.manifest());
      if (why_not.empty()) {
        found.push_back(std::move(engine));
      } else {
        refused.push_back(std::move(why_not));
      }
    } catch (const Failure& cause) {
      refused.emplace_back(cause.what());
    }
  }
  return found;
}

Bytes read_plan(const Bundle& bundle, const Engine& engine) {
  const std::string folder = bundle.file(kEngines);
  const std::string path = folder + "/" + engine.record.plan;
  refuse_link(path, folder);
  ReadOutcome outcome = read_file(path, std::min(engine.record.plan_bytes, kMaxPlanBytes));
  if (outcome.error != 0) {
    throw Failure(StatusCode::kFileUnreadable, path + ": cannot be read: " + error_text(outcome.error) + "; build it again");
  }
  Sha256 hash;
  hash.update(outcome.bytes.data(), outcome.bytes.size());
  if (outcome.too_large || outcome.bytes.size() != engine.record.plan_bytes || hash.hex_digest() != engine.record.plan_sha256) {
    throw Failure(StatusCode::kBundleDamaged, path + ": damaged (its SHA-256 is not the sidecar's); build it again");
  }
  return std::move(outcome.bytes);
}

std::vector<std::string> engine_graphs(const Manifest& manifest, const std::string& kind, const std::string& wanted) {
  if (!wanted.empty()) return {choose_graph(manifest, kind, wanted)};
  std::vector<std::string> names;
  for (const char* precision : kEngineOrder) {
    const std::string name = kind + "." + precision;
    const GraphRecord* graph = manifest.find_graph(name);
    if (graph != nullptr && graph->verdict == "passed") names.push_back(name);
  }
  if (names.empty()) {
    throw Failure(StatusCode::kGraphUnavailable, "no " + kind +
                                                     " graph of this bundle that engines are built from has passed parity; "
                                                     "prove one with `dmdkit check`, or name one yourself (graph='fp32')");
  }
  return names;
}

}  // namespace dmdkit
