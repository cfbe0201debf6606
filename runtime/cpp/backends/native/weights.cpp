#include "weights.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../plugin.hpp"

namespace dmdkit_native {
namespace {

constexpr float kLog2E = 1.44269504F;
constexpr std::size_t kBlockBytes = std::size_t{1} << 21;  // a huge page
// Weights are asked for ahead of their use; what lies behind the last ones must be there.
constexpr std::size_t kSpareBytes = 8192;

// So many products of a byte and a level fit into 32 bits.
constexpr std::size_t kMostInner = std::size_t{1} << 16;

// The two sources of each target in the order in which its memory block concatenates them.
constexpr int kSources[kModalityCount][2] = {{kAudio, kVision}, {kText, kAudio}, {kText, kVision}};

[[noreturn]] void refuse(const std::string& why) {
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
  Packer(const OnnxFile& file, const Plan& plan, const Kernels& kernels, Arena& arena)
      : file_(file), plan_(plan), kernels_(kernels), arena_(arena), int8_(!reference("memory.text.0.query").scale.empty()) {}

  // Whether products of streams are to be computed in INT8.
  bool int8() const { return int8_; }

  bool has(const std::string& name) const { return plan_.references.count(name) != 0; }

  // A layer over steps; `exact`: in fp32 even where the file has levels. `factor` is multiplied in.
  Matrix matrix(const std::string& name, int rows, int depth, int taps = 1, bool exact = false, float factor = 1.0F) {
    const Raw found = raw(name, rows, depth, taps, factor);
    if (found.int8 != int8_) refuse(name + " is stored otherwise than the rest");
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
      refuse(name + " is too small");
    }
    auto* found = arena_.make<float>(static_cast<std::size_t>(rows) * padded);
    for (int r = 0; r < rows; ++r) {
      std::memcpy(found + static_cast<std::size_t>(r) * padded,
                  tensor.data + ((first + r) * columns + columns - steps) * sizeof(float), steps * sizeof(float));
    }
    return found;
  }

  const float* vector(const std::string& name, int count) {
    const Tensor& tensor = fp32(reference(name).weight, name);
    if (tensor.elements != static_cast<std::size_t>(count)) refuse(name + " has another size than the plan says");
    auto* found = arena_.make<float>(count);
    std::memcpy(found, tensor.data, count * sizeof(float));
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
    const auto found = plan_.references.find(name);
    if (found == plan_.references.end()) refuse("the plan does not name " + name);
    return found->second;
  }

  const Tensor& tensor(const std::string& initialiser, const std::string& name) const {
    const auto found = file_.initialisers.find(initialiser);
    if (found == file_.initialisers.end()) refuse(name + " is to be the initialiser '" + initialiser + "', which is not there");
    if (found->second.data == nullptr) refuse(name + ": '" + initialiser + "' is of a type that is not expected");
    return found->second;
  }

  const Tensor& fp32(const std::string& initialiser, const std::string& name) const {
    const Tensor& found = tensor(initialiser, name);
    if (found.type != DataType::kFloat) refuse(name + ": '" + initialiser + "' is not float32");
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
      refuse(name + " has another size than the plan says");
    }
    const bool int8 = weight.type == DataType::kInt8;
    if (int8 == wanted.scale.empty() || weight.type == DataType::kInt32) refuse(name + " is neither fp32 nor INT8 with scales");
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
      if (inner > kMostInner) refuse(name + " sums more products than 32 bits hold");
      for (std::size_t o = 0; o < count; ++o) {
        bool symmetric = true;
        for (std::size_t i = 0; i < inner; ++i) symmetric &= found.level(o, i) != -128;
        if (!symmetric) refuse(name + " has the level -128; INT8 weights are symmetric");
      }
      const Tensor& scale = fp32(wanted.scale, name);
      if (scale.elements != total) refuse(name + " has not one scale a row");
      for (std::size_t o = 0; o < count; ++o) found.scale.push_back(float_at(scale, first + o) * factor);
    }
    if (!wanted.bias.empty()) {
      const Tensor& bias = tensor(wanted.bias, name);
      if (bias.elements != total || bias.type == DataType::kInt8 ||
          (bias.type == DataType::kInt32) == wanted.bias_scale.empty()) {
        refuse(name + " has a bias of another kind than the plan says");
      }
      for (std::size_t o = 0; o < count; ++o) {
        if (bias.type == DataType::kFloat) {
          found.bias.push_back(float_at(bias, first + o) * factor);
          continue;
        }
        if (!int8) refuse(name + " has an INT32 bias but no scales");
        std::int32_t level;
        std::memcpy(&level, bias.data + (first + o) * sizeof(level), sizeof(level));
        const Tensor& step = fp32(wanted.bias_scale, name);
        if (step.elements != 1) refuse(name + " has a bias without one scale");
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
  const Plan& plan_;
  const Kernels& kernels_;
  Arena& arena_;
  const bool int8_;
};

}  // namespace

void Arena::Free::operator()(void* memory) const { std::free(memory); }

void* Arena::bytes(std::size_t size) {
  size = (size + kAlignment - 1) / kAlignment * kAlignment;
  if (size + kSpareBytes > left_) {
    const std::size_t block = (size + kSpareBytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    void* memory = nullptr;
    if (posix_memalign(&memory, kBlockBytes, block) != 0) throw std::bad_alloc();
    blocks_.emplace_back(memory);
#if defined(__linux__)
    madvise(memory, block, MADV_HUGEPAGE);  // fewer pages to walk; nothing is lost where there are none
#endif
    std::memset(memory, 0, block);
    at_ = static_cast<unsigned char*>(memory);
    left_ = block;
    total_ += block;
  }
  void* found = at_;
  at_ += size;
  left_ -= size;
  return found;
}

Weights::Weights(const OnnxFile& file, const Kernels& the_kernels) : kernels(the_kernels), plan(parse_plan(file.plan)) {
  Packer pack(file, plan, kernels, arena);
  const int e = plan.width;
  const int heads = plan.heads;
  int8 = pack.int8();
  // In the order of their use, so that they stream through the caches.
  for (int m = 0; m < kModalityCount; ++m) {
    const std::string name = kModalityNames[m];
    const Plan::Input& input = plan.inputs[m];
    Front& found = front[m];
    if (pack.has(name + ".mean")) {
      found.mean = pack.vector(name + ".mean", input.features);
      found.inverse_scale = pack.vector(name + ".inverse_scale", input.features);
    }
    found.projects = pack.has(name + ".project");
    // What is small stays exact: raw features of any scale go in.
    if (found.projects) found.project = pack.matrix(name + ".project", e, input.features, input.kernel);
    const int inputs = found.projects ? e : input.features;
    found.encode = pack.matrix(name + ".encode", 2 * e, inputs, found.projects ? 1 : input.kernel, /*exact=*/true);
    found.positions = pack.table(name + ".positions", 2 * e, input.projected(), padded(input.projected()));
  }
  for (int target = 0; target < kModalityCount; ++target) {
    for (const int source : kSources[target]) {
      Crossed stream{target, source, {}};
      const std::string name = std::string("cross.") + kModalityNames[target] + "." + kModalityNames[source] + ".";
      for (int level = 0; level < plan.levels; ++level) stream.layers.push_back(pack.layer(name + std::to_string(level), e));
      crossed.push_back(std::move(stream));
    }
  }
  for (int m = 0; m < kModalityCount; ++m) {
    const std::string name = std::string("self.") + kModalityNames[m] + ".";
    for (int level = 0; level < plan.levels - 1; ++level) self[m].layers.push_back(pack.layer(name + std::to_string(level), e));
    self[m].last = pack.last_layer(name + "last", e, heads);
  }
  for (int m = 0; m < kModalityCount; ++m) {
    const std::string name = std::string("memory.") + kModalityNames[m] + ".";
    const int steps = plan.inputs[m].projected();
    memory[m].input = pack.matrix(name + "input", 2 * e, 2 * e);
    memory[m].positions = pack.table(name + "positions", 2 * e, steps, padded(steps));
    for (int level = 0; level < plan.memory_levels - 1; ++level) {
      memory[m].layers.push_back(pack.layer(name + std::to_string(level), 2 * e));
    }
    memory[m].last = pack.last_layer(name + "last", 2 * e, heads);
    gate[m] = pack.dense(std::string("gate.") + kModalityNames[m], 2 * e, 2 * e);
  }
  common_gate = pack.dense("gate.common", 3 * e, 3 * e);
  hidden = pack.dense("readout.hidden", 9 * e, 9 * e);
  out = pack.dense("readout.out", plan.outputs, 18 * e);
}

}  // namespace dmdkit_native
