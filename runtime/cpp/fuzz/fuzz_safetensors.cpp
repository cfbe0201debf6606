#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "json_fields.hpp"
#include "refused.hpp"
#include "safetensors.hpp"

// Any bytes give tensors that fit the file, and survive being written and read again, or Malformed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const dmdkit::Tensors tensors = dmdkit::parse_safetensors(data, size);
    std::size_t bytes = 0;
    for (const auto& entry : tensors) bytes += entry.second.values.size() * sizeof(float);
    if (bytes > size) std::abort();
    const auto again = dmdkit::safetensors_bytes(tensors);
    if (dmdkit::parse_safetensors(again.data(), again.size()).size() != tensors.size()) std::abort();
  } catch (const dmdkit::Malformed& cause) {
    refused(cause);
  }
  return 0;
}
