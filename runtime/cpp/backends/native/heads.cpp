#include "heads.hpp"

#include <string>

#include "packer.hpp"

namespace dmdkit_native {

Heads::Heads(const OnnxFile& file, const Weights& weights) {
  const StepPlan plan = parse_step_plan(file.plan);
  Packer pack(file, plan.references, weights.kernels, arena, weights.int8);
  const int width = 2 * weights.plan.width;
  for (int m = 0; m < kModalityCount; ++m) {
    const std::string name = std::string("hetero.") + kModalityNames[m] + ".";
    head[m].scale = pack.vector(name + "scale", width, kModalityCount);
    head[m].shift = pack.vector(name + "shift", width, kModalityCount);
    head[m].first = pack.dense(name + "first", width, width);
    head[m].second = pack.dense(name + "second", width, width);
    head[m].out = pack.dense(name + "out", weights.plan.outputs, width);
  }
  unit_width = plan.unit_width;
  if (unit_width == 0) return;
  unit_logit = pack.dense("unit.logit", unit_width, weights.plan.outputs);
  unit_representation = pack.dense("unit.representation", unit_width, width);
  unit_edge = pack.dense("unit.edge", 1, 4 * unit_width);
}

}  // namespace dmdkit_native
