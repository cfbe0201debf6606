// JSON from files that may be hostile: no repeated keys, bounded nesting, bounded number of values, nothing beyond RFC 8259.
#ifndef DMDKIT_SRC_STRICT_JSON_HPP_
#define DMDKIT_SRC_STRICT_JSON_HPP_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace dmdkit {

// A manifest nests five deep; a safetensors header three.
inline constexpr std::size_t kMaxJsonDepth = 32;
// Bounds the memory of the parsed form: about 100 MB at worst.
inline constexpr std::size_t kMaxJsonValues = std::size_t{1} << 20;

// Parses `size` bytes at `data`. On failure returns a discarded value and says why in `problem`.
nlohmann::json parse_strict_json(const unsigned char* data, std::size_t size, std::string& problem);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STRICT_JSON_HPP_
