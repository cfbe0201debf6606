// How near the native kernels' products come to what this core can do: a line of JSON for each instruction set, all measured in
// one run. A compiler that handles a tile badly shows here before it shows in a prediction.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <vector>

#include "../backends/native/instruction_sets.hpp"

namespace {

using dmdkit_native::Kernels;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The best of several rates: what disturbs a run only makes it slower.
template <typename Body>
double best_rate(Body&& body) {
  double best = 0;
  for (int trial = 0; trial < 15; ++trial) {
    const double begin = cpu_seconds();
    const double multiply_adds = body();
    best = std::max(best, multiply_adds / (cpu_seconds() - begin));
  }
  return best;
}

// The first product of a feed-forward layer of a published model's memory stream: 400 rows of 100 over 48 steps.
double product_rate(const Kernels& kernels, bool int8) {
  constexpr int kRowCount = 400, kDepth = 100, kRepeats = 200;
  const int vectors = 48 / kernels.lanes, steps = vectors * kernels.lanes;
  std::vector<float> weights(kRowCount * kDepth, 0.01F), x(kDepth * steps, 1.0F), y(kRowCount * steps), scale(steps, 1.0F);
  std::vector<std::int8_t> levels(kRowCount * kDepth, 3);
  std::vector<std::int32_t> sums(kRowCount, 3 * kDepth);
  std::vector<float> row_scale(kRowCount, 0.01F);
  std::vector<std::uint8_t> bytes(kDepth * steps, 77);
  dmdkit_native::Matrix matrix;
  matrix.rows = kRowCount;
  matrix.depth = kDepth;
  matrix.weights = weights.data();
  matrix.levels = levels.data();
  matrix.sums = sums.data();
  matrix.scale = row_scale.data();
  dmdkit_native::LinearCall call{};
  call.ld_x = call.ld_y = steps;
  call.y = y.data();
  call.vectors = vectors;
  call.step_scale = scale.data();
  call.x = int8 ? static_cast<const void*>(bytes.data()) : x.data();
  return best_rate([&] {
    for (int i = 0; i < kRepeats; ++i) (int8 ? kernels.linear_int8 : kernels.linear)(matrix, call);
    return static_cast<double>(kRepeats) * kRowCount * kDepth * steps;
  });
}

double peak_rate(float (*peak)(int, double*)) {
  return best_rate([&] {
    double multiply_adds = 0;
    volatile float kept = peak(20000, &multiply_adds);
    (void)kept;
    return multiply_adds;
  });
}

}  // namespace

int main() {
  for (const Kernels* kernels : dmdkit_native::usable_kernels()) {
    const double fma = peak_rate(kernels->fma_peak), dot = peak_rate(kernels->dot_peak);
    const double fp32 = product_rate(*kernels, false), int8 = product_rate(*kernels, true);
    std::printf("{\"isa\": \"%s\", \"fp32_peak\": %.2f, \"fp32\": %.2f, \"int8_peak\": %.2f, \"int8\": %.2f}\n", kernels->isa,
                fma * 1e-9, fp32 * 1e-9, dot * 1e-9, int8 * 1e-9);
  }
  return 0;
}
