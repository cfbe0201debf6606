#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "json_fields.hpp"
#include "npz.hpp"
#include "refused.hpp"

// Any bytes give arrays no larger than the file can hold, or Malformed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::size_t bytes = 0;
    for (const auto& entry : dmdkit::parse_npz(data, size)) bytes += entry.second.values.size() * sizeof(float);
    if (bytes > size * dmdkit::kMaxInflation) std::abort();
  } catch (const dmdkit::Malformed& cause) {
    refused(cause);
  }
  return 0;
}
