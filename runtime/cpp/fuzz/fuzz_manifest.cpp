#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "failure.hpp"
#include "manifest.hpp"
#include "refused.hpp"

// Any bytes give a manifest or a Failure, and what was accepted keeps its promises.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const dmdkit::Manifest manifest = dmdkit::parse_manifest(data, size, "fuzz");
    for (const auto& entry : manifest.files) {
      if (!dmdkit::is_safe_path(entry.first) || entry.first.find("..") == 0) std::abort();
    }
    for (const dmdkit::InputRecord& input : manifest.inputs) {
      if (input.info.steps == 0 || input.info.features == 0) std::abort();
    }
  } catch (const dmdkit::Failure& failure) {
    if (failure.status().ok()) std::abort();
    refused(failure);
  }
  return 0;
}
