// The plan of a fusion graph: the model's sizes, and which initialiser is which of its weights (docs/native.md).
#ifndef DMDKIT_BACKENDS_NATIVE_PLAN_HPP_
#define DMDKIT_BACKENDS_NATIVE_PLAN_HPP_

#include <array>
#include <map>
#include <string>

namespace dmdkit_native {

// In the order of the graph's concatenations.
enum Modality { kText = 0, kVision = 1, kAudio = 2 };
constexpr int kModalityCount = 3;
constexpr std::array<const char*, kModalityCount> kModalityNames = {"text", "vision", "audio"};

struct Reference {
  std::string weight;
  std::string scale;       // of INT8 levels, one a row; empty: the weight is fp32
  std::string bias;        // empty: none
  std::string bias_scale;  // of an INT32 bias, times `scale`; empty: the bias is fp32
  int row = 0;             // the first one of the tensor's rows that belongs here
  bool transposed = false;
};

using References = std::map<std::string, Reference>;

struct Plan {
  struct Input {
    int steps = 0;
    int features = 0;
    int kernel = 0;
    int projected() const { return steps - kernel + 1; }
  };
  int width = 0;
  int heads = 0;
  int outputs = 0;
  int levels = 0;
  int memory_levels = 0;
  int real_steps = 0;  // 1: a window takes how many of its steps are real, and the last of those is read
  std::array<Input, kModalityCount> inputs;
  References references;
};

// The plan of a step graph, which names what a fusion graph has not (heads.hpp).
struct StepPlan {
  int unit_width = 0;  // of the GD-Unit; 0: there is none
  References references;
};

// Throws dmdkit_plugin::Problem, as parse_plan does.
StepPlan parse_step_plan(const std::string& text);

// Throws dmdkit_plugin::Problem: no plan, another version, anything that is not understood, or sizes that cannot be.
Plan parse_plan(const std::string& text);

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_PLAN_HPP_
