// The two things the engine wants of an ONNX file: its initialisers by name, and the plan in its metadata. A strict reader of
// protobuf's wire format; it allocates names and sizes, the values stay where they are.
#ifndef DMDKIT_BACKENDS_NATIVE_ONNX_FILE_HPP_
#define DMDKIT_BACKENDS_NATIVE_ONNX_FILE_HPP_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dmdkit_native {

enum class DataType { kFloat = 1, kInt8 = 3, kInt32 = 6, kOther = 0 };

// An initialiser; `data` points into the file, unaligned. Types other than these have no data here.
struct Tensor {
  DataType type = DataType::kOther;
  std::vector<std::int64_t> dims;
  const std::uint8_t* data = nullptr;
  std::size_t elements = 0;
};

struct OnnxFile {
  std::map<std::string, Tensor> initialisers;
  std::string plan;  // empty: the file has none
};

// Throws dmdkit_plugin::Problem for anything that is not an ONNX file with all its data inside.
OnnxFile read_onnx(const void* data, std::size_t size);

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_ONNX_FILE_HPP_
