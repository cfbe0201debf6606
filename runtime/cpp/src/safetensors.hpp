// Float32 tensors of a safetensors file, every offset checked before it is used. Int64 ones (a text encoder's tokens) are for who
// asks for them; those and float64 ones (the labels and their range in a feature file) are checked and left out otherwise.
#ifndef DMDKIT_SRC_SAFETENSORS_HPP_
#define DMDKIT_SRC_SAFETENSORS_HPP_

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace dmdkit {

struct Tensor {
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

using Tensors = std::map<std::string, Tensor>;

struct IntegerTensor {
  std::vector<std::size_t> shape;
  std::vector<std::int64_t> values;
};

using IntegerTensors = std::map<std::string, IntegerTensor>;

// Parses a whole file; int64 tensors are added to `integers`, the names of what was left out to `left_out`, unless that is null.
// Throws Malformed; memory stays within a small multiple of `size`.
Tensors parse_safetensors(const unsigned char* data, std::size_t size, std::set<std::string>* left_out = nullptr,
                          IntegerTensors* integers = nullptr);

// The inverse, for tools: the content of a file that holds `tensors`.
std::vector<unsigned char> safetensors_bytes(const Tensors& tensors);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_SAFETENSORS_HPP_
