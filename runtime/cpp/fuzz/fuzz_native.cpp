#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "../backends/native/engine.hpp"
#include "../backends/plugin.hpp"
#include "refused.hpp"

namespace dmdkit_native {
namespace portable {
extern const Kernels kKernels;
}
}  // namespace dmdkit_native

// Any bytes give weights whose engine runs on a sample of zeros, or Problem.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dmdkit_native::Engine;
  using dmdkit_native::Weights;
  try {
    Engine engine(std::make_shared<const Weights>(dmdkit_native::read_onnx(data, size), dmdkit_native::portable::kKernels));
    const dmdkit_native::Plan& plan = engine.weights().plan;
    std::array<std::vector<float>, dmdkit_native::kModalityCount> features;
    std::array<const float*, dmdkit_native::kModalityCount> pointers{};
    for (int m = 0; m < dmdkit_native::kModalityCount; ++m) {
      features[m].resize(static_cast<std::size_t>(plan.inputs[m].steps) * plan.inputs[m].features);
      pointers[m] = features[m].data();
    }
    std::vector<float> score(plan.outputs);
    engine.run(pointers, score.data());
  } catch (const dmdkit_plugin::Problem& cause) {
    refused(cause);
  }
  return 0;
}
