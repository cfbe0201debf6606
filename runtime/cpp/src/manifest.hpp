// manifest.json, schema version 1 (docs/bundle.md). What is used is checked, with Python's limits; a field that is not used is
// neither checked nor refused, so that what a later minor version adds does not stop a robot.
#ifndef DMDKIT_SRC_MANIFEST_HPP_
#define DMDKIT_SRC_MANIFEST_HPP_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dmdkit/types.hpp"
#include "text/rows.hpp"

namespace dmdkit {

inline constexpr char kManifestFile[] = "manifest.json";
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{16} << 20;

struct FileRecord {
  std::string sha256;
  std::uint64_t size_bytes = 0;
};

struct InputRecord {
  InputInfo info;
  std::optional<std::vector<double>> minimum;  // per feature, over the training steps that are not padding
  std::optional<std::vector<double>> maximum;
};

struct GraphRecord {
  std::string kind;
  std::string precision;
  std::string file;
  std::map<std::string, std::string> session_options;
  std::string verdict;                 // passed, failed, unverified
  std::vector<std::string> passed_on;  // other backends its parity was proven on
  bool only_stores_int8 = false;       // INT8 weights, float arithmetic: repeated as exactly as an fp32 graph
};

// One tensor of a stream's state, float32 (heads, width, capacity).
struct StateRecord {
  std::string name;
  std::size_t heads = 0;
  std::size_t width = 0;
};

// The step graphs and the state that a host keeps for them (docs/streaming.md).
struct StreamRecord {
  std::size_t kernel = 0;    // the first kernel - 1 steps have no answer
  std::size_t capacity = 0;  // projected steps that a state holds
  std::vector<StateRecord> state;
  std::vector<std::pair<std::string, GraphRecord>> graphs;  // stream.PRECISION
};

// What the runtime uses of the manifest; the rest is not looked at.
struct Manifest {
  std::uint64_t schema_minor = 0;
  std::vector<std::string> notes;  // what was not as expected, in sentences
  std::string name;
  TaskInfo task;
  std::size_t num_outputs = 0;
  double output_sd = 0.0;
  std::array<std::string, kModalities> modality_order;
  std::array<std::string, kEdges> edge_order;   // "student<-teacher"
  std::array<InputRecord, kModalities> inputs;  // in the order of kModalityNames
  std::optional<text::TextRecord> text;         // of a bundle with a text encoder
  std::vector<std::pair<std::string, GraphRecord>> graphs;
  bool real_steps = false;  // real steps come first, and window graphs take how many there are
  std::size_t kernel = 0;   // with real steps: the fewest that a sample may have
  std::optional<StreamRecord> stream;
  std::string golden_file;
  std::size_t golden_samples = 0;
  std::map<std::string, FileRecord> files;

  // Null if there is no graph of this name, step graphs among them.
  const GraphRecord* find_graph(const std::string& graph) const noexcept;
};

// Letters, digits and _ . - in parts separated by '/', no part starting with '.' or '-'.
bool is_safe_path(const std::string& path) noexcept;

// Reads a manifest from memory; `where` names it in messages. Throws Failure.
Manifest parse_manifest(const unsigned char* data, std::size_t size, const std::string& where);

// Reads and checks bundle/manifest.json. Throws Failure.
Manifest read_manifest(const std::string& bundle);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_MANIFEST_HPP_
