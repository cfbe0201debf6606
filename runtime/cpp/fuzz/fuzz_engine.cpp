#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine_record.hpp"
#include "failure.hpp"
#include "refused.hpp"

// Any bytes give a sidecar or a Failure, and an accepted one names a plan of its own folder.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const dmdkit::EngineRecord record = dmdkit::parse_engine_record(data, size, "fuzz");
    if (record.plan.empty() || record.plan[0] == '.' || record.plan.find('/') != std::string::npos) std::abort();
    if (record.plan_sha256.size() != 64 || record.plan_bytes == 0) std::abort();
  } catch (const dmdkit::Failure& failure) {
    if (failure.status().ok()) std::abort();
    refused(failure);
  }
  return 0;
}
