// The sidecar of an engine, engines/NAME.json: what it was built from and for. Read whole and checked whole, as
// dmdkit.runtime.engines in Python does.
#ifndef DMDKIT_SRC_ENGINE_RECORD_HPP_
#define DMDKIT_SRC_ENGINE_RECORD_HPP_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dmdkit {

inline constexpr std::uint64_t kMaxSidecarBytes = std::uint64_t{16} << 20;

// What the runtime uses of a sidecar; the rest is checked and left behind.
struct EngineRecord {
  std::string graph;  // key in the manifest's graphs
  std::string graph_sha256;
  std::string flavour;  // tensorrt or tensorrt_rtx
  std::string version;
  std::vector<std::string> compute_capabilities;
  std::string platform;            // "linux-x86_64"
  std::optional<std::string> gpu;  // that built it
  std::string plan;                // a plain file name
  std::string plan_sha256;
  std::uint64_t plan_bytes = 0;
  // What a device said of it; nothing before it first ran.
  std::optional<bool> precision_passed;
  std::string precision_reason;
  std::optional<bool> check_passed;
  std::string check_worst_output;
};

// Reads a sidecar from memory; `where` names it in messages. Throws Failure.
EngineRecord parse_engine_record(const unsigned char* data, std::size_t size, const std::string& where);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_ENGINE_RECORD_HPP_
