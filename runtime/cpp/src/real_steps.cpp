#include "real_steps.hpp"

#include <algorithm>
#include <string>

namespace dmdkit {

namespace {

bool is_empty(const float* row, std::size_t width) {
  return std::all_of(row, row + width, [](float value) { return value == 0.0F; });
}

}  // namespace

void move_own_steps_in_front(const std::array<float*, kModalities>& features, const InputRecords& inputs, std::size_t batch) {
  const std::size_t all = inputs[0].info.steps;
  for (std::size_t sample = 0; sample < batch; ++sample) {
    std::size_t first = all;
    for (std::size_t i = 0; i < kModalities; ++i) {
      const std::size_t width = inputs[i].info.features;
      const float* rows = features[i] + sample * all * width;
      std::size_t begin = 0;
      while (begin < first && is_empty(rows + begin * width, width)) ++begin;
      first = std::min(first, begin);
    }
    if (first == 0 || first == all) continue;
    for (std::size_t i = 0; i < kModalities; ++i) {
      const std::size_t width = inputs[i].info.features;
      float* rows = features[i] + sample * all * width;
      std::fill(std::copy(rows + first * width, rows + all * width, rows), rows + all * width, 0.0F);
    }
  }
}

Status count_steps(const std::array<const float*, kModalities>& features, const InputRecords& inputs, std::size_t batch,
                   std::size_t kernel, float* steps) {
  const std::size_t all = inputs[0].info.steps;
  for (std::size_t sample = 0; sample < batch; ++sample) {
    std::size_t real = 0;
    for (std::size_t i = 0; i < kModalities; ++i) {
      const std::size_t width = inputs[i].info.features;
      const float* rows = features[i] + sample * all * width;
      std::size_t last = all;
      while (last > real && is_empty(rows + (last - 1) * width, width)) --last;
      real = std::max(real, last);
    }
    if (real == 0 && kernel == 0) real = all;  // for who only counts, as the self-check does
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
