#include "weights.hpp"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "packer.hpp"

namespace dmdkit_native {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 21;  // a huge page
// Weights are asked for ahead of their use; what lies behind the last ones must be there.
constexpr std::size_t kSpareBytes = 8192;

// The two sources of each target in the order in which its memory block concatenates them.
constexpr int kSources[kModalityCount][2] = {{kAudio, kVision}, {kText, kAudio}, {kText, kVision}};

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
  const auto query = plan.references.find("memory.text.0.query");
  Packer pack(file, plan.references, kernels, arena, query != plan.references.end() && !query->second.scale.empty());
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
