#include "native_model.hpp"

#include <cmath>
#include <cstring>
#include <random>

namespace dmdkit_native {
namespace {

class Writer {
 public:
  Writer(const ModelSizes& sizes, unsigned seed) : sizes_(sizes), random_(seed) {}

  std::string file() {
    const int d = sizes_.width;
    plan_ = "dmdkit plan 1\nwidth " + std::to_string(d) + "\nheads " + std::to_string(sizes_.heads) + "\noutputs " +
            std::to_string(sizes_.outputs) + "\nlevels " + std::to_string(sizes_.levels) + "\nmemory_levels 3\n";
    for (int m = 0; m < kModalityCount; ++m) {
      const std::string name = kModalityNames[m];
      plan_ += name + ".steps " + std::to_string(sizes_.prefix != 0 ? sizes_.prefix : sizes_.steps[m]) + "\n";
      plan_ += name + ".features " + std::to_string(sizes_.features[m]) + "\n";
      plan_ += name + ".kernel " + std::to_string(sizes_.kernels[m]) + "\n";
    }
    for (int m = 0; m < kModalityCount; ++m) {
      const std::string name = kModalityNames[m];
      const int steps = sizes_.steps[m] - sizes_.kernels[m] + 1;
      if (sizes_.projects[m]) {
        layer(name + ".project", d, sizes_.features[m], sizes_.kernels[m], false);
        layer(name + ".encode", 2 * d, d, 1, false);
      } else {
        layer(name + ".encode", 2 * d, sizes_.features[m], sizes_.kernels[m], false);
      }
      if (sizes_.standardised) {
        constant(name + ".mean", {sizes_.features[m], 1}, 0.1F);
        constant(name + ".inverse_scale", {sizes_.features[m], 1}, 1.0F);
      }
      positions(name + ".positions", {2 * d, steps}, m);
      for (int source = 0; source < kModalityCount; ++source) {
        if (source == m) continue;
        for (int level = 0; level < sizes_.levels; ++level) {
          block("cross." + name + "." + kModalityNames[source] + "." + std::to_string(level), d);
        }
      }
      for (int level = 0; level < sizes_.levels - 1; ++level) block("self." + name + "." + std::to_string(level), d);
      last("self." + name + ".last", d);
      layer("memory." + name + ".input", 2 * d, 2 * d);
      positions("memory." + name + ".positions", {1, 2 * d, steps + 3}, m);  // three empty steps in front
      for (int level = 0; level < 2; ++level) block("memory." + name + "." + std::to_string(level), 2 * d);
      last("memory." + name + ".last", 2 * d);
      layer("gate." + name, 2 * d, 2 * d);
    }
    layer("gate.common", 3 * d, 3 * d);
    layer("readout.hidden", 9 * d, 9 * d);
    layer("readout.out", sizes_.outputs, 18 * d);
    return finished();
  }

  std::string step_file() {
    const int e = 2 * sizes_.width, unit = 3;
    plan_ = "dmdkit plan of steps 1\nunit " + std::to_string(unit) + "\n";
    for (int m = 0; m < kModalityCount; ++m) {
      const std::string name = std::string("hetero.") + kModalityNames[m] + ".";
      for (const char* part : {"scale", "shift"}) {
        constant(name + part, {3, e}, 1.0F);
        plan_.insert(plan_.size() - 1, " row=" + std::to_string(m));
      }
      layer(name + "first", e, e);
      layer(name + "second", e, e);
      layer(name + "out", sizes_.outputs, e);
    }
    layer("unit.logit", unit, sizes_.outputs);
    layer("unit.representation", unit, e);
    layer("unit.edge", 1, 4 * unit);
    return finished();
  }

 private:
  std::string finished() const { return field(7, graph_) + field(14, field(1, "dmdkit.plan") + field(2, plan_)); }

  float normal() { return std::normal_distribution<float>()(random_); }

  std::string tensor(const std::vector<int>& dims, int type, const void* data, std::size_t bytes) {
    const std::string name = "c" + std::to_string(count_++);
    std::string text;
    for (const int size : dims) text += field(1, static_cast<std::uint64_t>(size));
    text += field(2, static_cast<std::uint64_t>(type)) + field(8, name);
    graph_ += field(5, text + field(9, std::string(static_cast<const char*>(data), bytes)));
    return name;
  }

  std::string floats(const std::vector<int>& dims, const std::vector<float>& values) {
    return tensor(dims, 1, values.data(), values.size() * sizeof(float));
  }

  std::vector<float> normals(const std::vector<int>& dims, float size) {
    std::size_t count = 1;
    for (const int n : dims) count *= static_cast<std::size_t>(n);
    std::vector<float> values(count);
    for (float& value : values) value = normal() * size;
    return values;
  }

  // Without the last columns where a window is cut short.
  void positions(const std::string& name, std::vector<int> dims, int modality) {
    std::vector<float> values = normals(dims, 0.1F);
    if (sizes_.prefix != 0) {
      const int all = dims.back(), rows = static_cast<int>(values.size()) / all;
      dims.back() -= sizes_.steps[modality] - sizes_.prefix;
      for (int row = 0; row < rows; ++row) {
        for (int t = 0; t < dims.back(); ++t) values[row * dims.back() + t] = values[row * all + t];
      }
      values.resize(static_cast<std::size_t>(rows) * dims.back());
    }
    plan_ += name + " weight=" + floats(dims, values) + "\n";
  }

  void constant(const std::string& name, const std::vector<int>& dims, float size) {
    plan_ += name + " weight=" + floats(dims, normals(dims, size)) + "\n";
  }

  void layer(const std::string& name, int rows, int depth, int taps = 1, bool bias = true) {
    const std::vector<float> weight = normals({rows, depth, taps}, 1.0F / std::sqrt(static_cast<float>(depth * taps)));
    plan_ += name;
    if (sizes_.int8) {
      std::vector<float> scale(rows);
      std::string levels;
      const std::size_t inner = static_cast<std::size_t>(depth) * taps;
      for (int o = 0; o < rows; ++o) {
        for (std::size_t i = 0; i < inner; ++i) scale[o] = std::max(scale[o], std::abs(weight[o * inner + i]) / 127);
        for (std::size_t i = 0; i < inner; ++i) levels += static_cast<char>(std::lrint(weight[o * inner + i] / scale[o]));
      }
      plan_ += " weight=" + tensor({rows, depth, taps}, 3, levels.data(), levels.size());
      plan_ += " scale=" + floats({rows}, scale);
    } else {
      plan_ += " weight=" + floats({rows, depth, taps}, weight);
    }
    if (bias) plan_ += " bias=" + floats({rows}, normals({rows}, 0.1F));
    plan_ += " row=0\n";
  }

  void block(const std::string& name, int e) {
    layer(name + ".query", e, e);
    layer(name + ".key", e, e, 1, false);
    layer(name + ".value", e, e, 1, false);
    layer(name + ".out", e, e);
    layer(name + ".fc1", 4 * e, e);
    layer(name + ".fc2", e, 4 * e);
  }

  void last(const std::string& name, int e) {
    layer(name + ".query", e, e);
    layer(name + ".query_for_source", sizes_.heads * e, e / sizes_.heads, 1, false);
    layer(name + ".value", e, e, 1, false);
    layer(name + ".out", e, e);
    layer(name + ".fc1", 4 * e, e);
    layer(name + ".fc2", e, 4 * e);
  }

  const ModelSizes& sizes_;
  std::mt19937 random_;
  std::string graph_;
  std::string plan_;
  int count_ = 0;
};

}  // namespace

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}

std::string field(int number, const std::string& bytes) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(bytes.size()) + bytes;
}

std::string field(int number, std::uint64_t value) { return varint(static_cast<std::uint64_t>(number) << 3) + varint(value); }

std::string model_bytes(const ModelSizes& sizes, unsigned seed) { return Writer(sizes, seed).file(); }

std::string step_model_bytes(const ModelSizes& sizes, unsigned seed) { return Writer(sizes, seed).step_file(); }

std::vector<std::vector<float>> features_for(const ModelSizes& sizes, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> found;
  for (int m = 0; m < kModalityCount; ++m) {
    std::vector<float> values(static_cast<std::size_t>(sizes.steps[m]) * sizes.features[m]);
    const std::size_t empty = static_cast<std::size_t>(sizes.steps[m] / 4) * sizes.features[m];
    for (std::size_t i = empty; i < values.size(); ++i) values[i] = normal(random);
    found.push_back(std::move(values));
  }
  return found;
}

}  // namespace dmdkit_native
