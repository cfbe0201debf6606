// Takes the weights that a plan names out of an ONNX file and packs them for one instruction set.
#ifndef DMDKIT_BACKENDS_NATIVE_PACKER_HPP_
#define DMDKIT_BACKENDS_NATIVE_PACKER_HPP_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../plugin.hpp"
#include "weights.hpp"

namespace dmdkit_native {

constexpr float kLog2E = 1.44269504F;
// So many products of a byte and a level fit into 32 bits.
constexpr std::size_t kMostInner = std::size_t{1} << 16;

[[noreturn]] inline void refuse_weight(const std::string& why) {
  throw dmdkit_plugin::Problem(DMDKIT_BACKEND_FAILED, "the graph does not fit its plan for native kernels: " + why);
}

// A weight where the file has it: fp32 values, or INT8 levels with a scale a row. Row o, input i is at (first + o) * inner + i,
// or at i * total + first + o where it is stored transposed; nothing of it is aligned.
struct Raw {
  int rows = 0;
  int depth = 0;
  int taps = 1;
  const unsigned char* data = nullptr;
  bool int8 = false;
  std::size_t first_step = 0;  // elements from one row to the next
  std::size_t inner_step = 0;  // and from one input to the next
  float factor = 1.0F;
  std::vector<float> scale;  // of each row, the factor multiplied in
  std::vector<float> bias;   // likewise

  std::size_t inner() const { return static_cast<std::size_t>(depth) * taps; }
  std::int8_t level(std::size_t o, std::size_t i) const {
    return static_cast<std::int8_t>(data[o * first_step + i * inner_step]);
  }
  float value(std::size_t o, std::size_t i) const {
    float found;
    std::memcpy(&found, data + (o * first_step + i * inner_step) * sizeof(float), sizeof(float));
    return found * factor;
  }
};

// to[i * width + o] = at(o, i), a block of inputs at a time: what is written stays in the nearest cache until it is whole.
template <typename T, typename At>
void pack_transposed(std::size_t rows, std::size_t inner, std::size_t width, T* to, At&& at) {
  constexpr std::size_t kBlock = 16;
  for (std::size_t begin = 0; begin < inner; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, inner);
    for (std::size_t o = 0; o < rows; ++o) {
      for (std::size_t i = begin; i < end; ++i) to[i * width + o] = at(o, i);
    }
  }
}

class Packer {
 public:
  // `int8`: whether products of streams are to be computed in INT8.
  Packer(const OnnxFile& file, const References& references, const Kernels& kernels, Arena& arena, bool int8)
      : file_(file), references_(references), kernels_(kernels), arena_(arena), int8_(int8) {}

  // Whether products of streams are to be computed in INT8.
  bool int8() const { return int8_; }

  bool has(const std::string& name) const { return references_.count(name) != 0; }

  // A layer over steps; `exact`: in fp32 even where the file has levels. `factor` is multiplied in.
  Matrix matrix(const std::string& name, int rows, int depth, int taps = 1, bool exact = false, float factor = 1.0F) {
    const Raw found = raw(name, rows, depth, taps, factor);
    if (found.int8 != int8_) refuse_weight(name + " is stored otherwise than the rest");
    return packed(found, exact);
  }

  Dense dense(const std::string& name, int rows, int depth, float factor = 1.0F) {
    return packed_dense(raw(name, rows, depth, 1, factor), 0, rows);
  }

  // A grouped layer: `groups` layers of rows x depth each, one below the other.
  std::vector<Dense> dense_groups(const std::string& name, int groups, int rows, int depth) {
    const Raw all = raw(name, groups * rows, depth, 1, 1.0F);
    std::vector<Dense> found;
    for (int g = 0; g < groups; ++g) found.push_back(packed_dense(all, g * rows, rows));
    return found;
  }

  // [rows][padded steps] from the last `steps` columns of a table.
  const float* table(const std::string& name, int rows, int steps, int padded) {
    const Tensor& tensor = fp32(reference(name).weight, name);
    const std::size_t columns = tensor.dims.empty() ? 0 : static_cast<std::size_t>(tensor.dims.back());
    const auto first = static_cast<std::size_t>(reference(name).row);
    if (columns < static_cast<std::size_t>(steps) || tensor.elements / columns < first + rows) {
      refuse_weight(name + " is too small");
    }
    auto* found = arena_.make<float>(static_cast<std::size_t>(rows) * padded);
    for (int r = 0; r < rows; ++r) {
      std::memcpy(found + static_cast<std::size_t>(r) * padded,
                  tensor.data + ((first + r) * columns + columns - steps) * sizeof(float), steps * sizeof(float));
    }
    return found;
  }

  // One of the `rows` rows of a table, which is padded to whole vectors.
  const float* vector(const std::string& name, int count, int rows = 1) {
    const Tensor& tensor = fp32(reference(name).weight, name);
    const auto size = static_cast<std::size_t>(count);
    if (tensor.elements != size * rows || reference(name).row >= rows) {
      refuse_weight(name + " has another size than the plan says");
    }
    auto* found = arena_.make<float>(size);
    std::memcpy(found, tensor.data + reference(name).row * size * sizeof(float), size * sizeof(float));
    return found;
  }

  Layer layer(const std::string& name, int e) {
    Layer found;
    found.query = matrix(name + ".query", e, e, 1, false, kLog2E);
    found.key = matrix(name + ".key", e, e);
    found.value = matrix(name + ".value", e, e);
    found.out = matrix(name + ".out", e, e);
    found.fc1 = matrix(name + ".fc1", 4 * e, e);
    found.fc2 = matrix(name + ".fc2", e, 4 * e);
    return found;
  }

  LastLayer last_layer(const std::string& name, int e, int heads) {
    LastLayer found;
    found.query = dense(name + ".query", e, e, kLog2E);
    found.query_for_source = dense_groups(name + ".query_for_source", heads, e, e / heads);
    found.value = dense_groups(name + ".value", heads, e / heads, e);
    found.out = dense(name + ".out", e, e);
    found.fc1 = dense(name + ".fc1", 4 * e, e);
    found.fc2 = dense(name + ".fc2", e, 4 * e);
    return found;
  }

 private:
  const Reference& reference(const std::string& name) const {
    const auto found = references_.find(name);
    if (found == references_.end()) refuse_weight("the plan does not name " + name);
    return found->second;
  }

  const Tensor& tensor(const std::string& initialiser, const std::string& name) const {
    const auto found = file_.initialisers.find(initialiser);
    if (found == file_.initialisers.end())
      refuse_weight(name + " is to be the initialiser '" + initialiser + "', which is not there");
    if (found->second.data == nullptr) refuse_weight(name + ": '" + initialiser + "' is of a type that is not expected");
    return found->second;
  }

  const Tensor& fp32(const std::string& initialiser, const std::string& name) const {
    const Tensor& found = tensor(initialiser, name);
    if (found.type != DataType::kFloat) refuse_weight(name + ": '" + initialiser + "' is not float32");
    return found;
  }

  static float float_at(const Tensor& tensor, std::size_t index) {
    float value;
    std::memcpy(&value, tensor.data + index * sizeof(float), sizeof(float));
    return value;
  }

  Raw raw(const std::string& name, int rows, int depth, int taps, float factor) const {
    const Reference& wanted = reference(name);
    const Tensor& weight = tensor(wanted.weight, name);
    const std::size_t inner = static_cast<std::size_t>(depth) * taps;
    const std::size_t total = weight.elements / inner;
    const auto first = static_cast<std::size_t>(wanted.row);
    const auto count = static_cast<std::size_t>(rows);
    const std::size_t row_axis = wanted.transposed ? 1 : 0;
    if (weight.dims.size() <= row_axis || weight.dims[row_axis] != static_cast<std::int64_t>(total) ||
        weight.elements != total * inner || first + count > total || (wanted.transposed && taps != 1)) {
      refuse_weight(name + " has another size than the plan says");
    }
    const bool int8 = weight.type == DataType::kInt8;
    if (int8 == wanted.scale.empty() || weight.type == DataType::kInt32)
      refuse_weight(name + " is neither fp32 nor INT8 with scales");
    Raw found;
    found.rows = rows;
    found.depth = depth;
    found.taps = taps;
    found.int8 = int8;
    found.factor = factor;
    found.first_step = wanted.transposed ? 1 : inner;
    found.inner_step = wanted.transposed ? total : 1;
    const std::size_t element = int8 ? 1 : sizeof(float);
    found.data = weight.data + first * found.first_step * element;
    if (int8) {
      if (inner > kMostInner) refuse_weight(name + " sums more products than 32 bits hold");
      for (std::size_t o = 0; o < count; ++o) {
        bool symmetric = true;
        for (std::size_t i = 0; i < inner; ++i) symmetric &= found.level(o, i) != -128;
        if (!symmetric) refuse_weight(name + " has the level -128; INT8 weights are symmetric");
      }
      const Tensor& scale = fp32(wanted.scale, name);
      if (scale.elements != total) refuse_weight(name + " has not one scale a row");
      for (std::size_t o = 0; o < count; ++o) found.scale.push_back(float_at(scale, first + o) * factor);
    }
    if (!wanted.bias.empty()) {
      const Tensor& bias = tensor(wanted.bias, name);
      if (bias.elements != total || bias.type == DataType::kInt8 ||
          (bias.type == DataType::kInt32) == wanted.bias_scale.empty()) {
        refuse_weight(name + " has a bias of another kind than the plan says");
      }
      for (std::size_t o = 0; o < count; ++o) {
        if (bias.type == DataType::kFloat) {
          found.bias.push_back(float_at(bias, first + o) * factor);
          continue;
        }
        if (!int8) refuse_weight(name + " has an INT32 bias but no scales");
        std::int32_t level;
        std::memcpy(&level, bias.data + (first + o) * sizeof(level), sizeof(level));
        const Tensor& step = fp32(wanted.bias_scale, name);
        if (step.elements != 1) refuse_weight(name + " has a bias without one scale");
        found.bias.push_back(static_cast<float>(level) * float_at(step, 0) * found.scale[o]);
      }
    }
    return found;
  }

  const float* copied(const std::vector<float>& values, std::size_t first, std::size_t count, std::size_t room) {
    auto* found = arena_.make<float>(room);
    std::memcpy(found, values.data() + first, count * sizeof(float));
    return found;
  }

  Matrix packed(const Raw& raw, bool exact) {
    Matrix found;
    found.rows = raw.rows;
    found.depth = raw.depth;
    found.taps = raw.taps;
    const auto height = static_cast<std::size_t>(kernels_.rows);
    const auto rows = static_cast<std::size_t>(raw.rows), taps = static_cast<std::size_t>(raw.taps);
    const std::size_t inner = raw.inner(), quads = (static_cast<std::size_t>(raw.depth) + 3) / 4;
    const std::size_t room = (rows + height - 1) / height * height;
    if (raw.int8 && !exact) {
      auto* levels = arena_.make<std::int8_t>(room * quads * taps * 4);
      auto* sums = arena_.make<std::int32_t>(room);
      for (std::size_t o = 0; o < rows; ++o) {
        std::int8_t* panel = levels + o / height * quads * taps * height * 4 + o % height * 4;
        std::int32_t sum = 0;
        for (std::size_t k = 0, i = 0; i < inner; ++k) {
          for (std::size_t t = 0; t < taps; ++t, ++i) {
            const std::int8_t level = raw.level(o, i);
            panel[(k / 4 * taps + t) * height * 4 + k % 4] = level;
            sum += level;
          }
        }
        sums[o] = sum;
      }
      found.levels = levels;
      found.sums = sums;
      found.scale = copied(raw.scale, 0, raw.scale.size(), room);
    } else {
      auto* weights = arena_.make<float>(room * inner);
      for (std::size_t first = 0; first < rows; first += height) {
        pack_transposed(
            std::min(height, rows - first), inner, height, weights + first * inner, [&](std::size_t o, std::size_t i) {
              return raw.int8 ? static_cast<float>(raw.level(first + o, i)) * raw.scale[first + o] : raw.value(first + o, i);
            });
      }
      found.weights = weights;
    }
    if (!raw.bias.empty()) found.bias = copied(raw.bias, 0, raw.bias.size(), room);
    return found;
  }

  Dense packed_dense(const Raw& raw, int first, int rows) {
    Dense found;
    found.rows = rows;
    found.depth = raw.depth;
    const int lanes = kernels_.lanes;
    const int vectors = (rows + lanes - 1) / lanes;
    const std::size_t room = static_cast<std::size_t>(vectors) * lanes;
    const auto depth = static_cast<std::size_t>(raw.depth);
    float* weights = raw.int8 ? nullptr : arena_.make<float>(room * depth);
    std::int8_t* levels = raw.int8 ? arena_.make<std::int8_t>(room * depth) : nullptr;
    const auto panel_rows = static_cast<std::size_t>(kDenseVectors) * lanes;
    for (std::size_t panel = 0; panel < static_cast<std::size_t>(rows); panel += panel_rows) {
      const std::size_t width = std::min(room - panel, panel_rows), from = first + panel;
      const std::size_t here = std::min(static_cast<std::size_t>(rows) - panel, panel_rows);
      if (raw.int8) {
        pack_transposed(here, depth, width, levels + panel * depth,
                        [&](std::size_t o, std::size_t i) { return raw.level(from + o, i); });
      } else {
        pack_transposed(here, depth, width, weights + panel * depth,
                        [&](std::size_t o, std::size_t i) { return raw.value(from + o, i); });
      }
    }
    found.weights = weights;
    found.levels = levels;
    if (raw.int8) found.scale = copied(raw.scale, first, rows, room);
    if (!raw.bias.empty()) found.bias = copied(raw.bias, first, rows, room);
    return found;
  }

  const OnnxFile& file_;
  const References& references_;
  const Kernels& kernels_;
  Arena& arena_;
  const bool int8_;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_PACKER_HPP_
