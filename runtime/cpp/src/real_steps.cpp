#include "real_steps.hpp"

#include <algorithm>
#include <string>

namespace dmdkit {

Status count_steps(const std::array<const float*, kModalities>& features, const InputRecords& inputs, std::size_t batch,
                   std::size_t kernel, float* steps) {
  const std::size_t all = inputs[0].info.steps;
  for (std::size_t sample = 0; sample < batch; ++sample) {
    std::size_t real = 0;
    for (std::size_t i = 0; i < kModalities; ++i) {
      const std::size_t width = inputs[i].info.features;
      const float* rows = features[i] + sample * all * width;
      const auto is_empty = [&](std::size_t step) {
        return std::all_of(rows + step * width, rows + (step + 1) * width, [](float value) { return value == 0.0F; });
      };
      std::size_t last = all;
      while (last > real && is_empty(last - 1)) --last;
      real = std::max(real, last);
    }
    if (real == 0) real = all;
    if (real < kernel) {
      return {StatusCode::kInvalidInput, "sample " + std::to_string(sample) + " has " + std::to_string(real) +
                                             " steps; the model needs at least " + std::to_string(kernel) +
                                             ", those under its kernel"};
    }
    steps[sample] = static_cast<float>(real);
  }
  return {};
}

}  // namespace dmdkit
