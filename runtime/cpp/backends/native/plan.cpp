#include "plan.hpp"

#include <sstream>
#include <utility>

#include "../plugin.hpp"

namespace dmdkit_native {
namespace {

constexpr int kPlanVersion = 1;
constexpr int kMostSize = 1 << 16;
constexpr int kMostLevels = 64;

[[noreturn]] void refuse(const std::string& why) {
  throw dmdkit_plugin::Problem(DMDKIT_BACKEND_FAILED, "the graph's plan for native kernels cannot be used: " + why);
}

// Digits alone, at most kMostSize for a size and 2^30 for a row.
int number_in(const std::string& word, const std::string& line, int most) {
  long value = 0;
  if (word.empty() || word.size() > 10) refuse("'" + line + "' has no number where one was expected");
  for (const char digit : word) {
    if (digit < '0' || digit > '9') refuse("'" + line + "' has no number where one was expected");
    value = value * 10 + (digit - '0');
  }
  if (value > most) refuse("'" + line + "' is beyond any use");
  return static_cast<int>(value);
}

void read_reference(std::istringstream& words, const std::string& line, Reference& found) {
  std::string word;
  while (words >> word) {
    const std::size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (value.empty()) refuse("'" + line + "' has a word without a value");
    std::string* text = nullptr;
    if (key == "weight") text = &found.weight;
    if (key == "scale") text = &found.scale;
    if (key == "bias") text = &found.bias;
    if (key == "bias_scale") text = &found.bias_scale;
    if (text != nullptr) {
      if (!text->empty()) refuse("'" + line + "' says " + key + " twice");
      *text = value;
    } else if (key == "row") {
      found.row = number_in(value, line, 1 << 30);
    } else if (key == "transposed") {
      found.transposed = number_in(value, line, 1) == 1;
    } else {
      refuse("'" + line + "' has the unknown word " + key);
    }
  }
  if (found.weight.empty()) refuse("'" + line + "' names no weight");
}

// What a plan says: sizes, of which the caller knows the names, and weights. `first`: its first line without the version.
References read_lines(const std::string& text, const std::string& first, const std::map<std::string, int*>& sizes) {
  if (text.empty()) refuse("it has none; export the bundle again with this version of dmdkit");
  References references;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  if (line != first + " " + std::to_string(kPlanVersion)) {
    refuse("it begins with '" + line.substr(0, 40) + "', this library reads '" + first + " " + std::to_string(kPlanVersion) +
           "'");
  }
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string name;
    if (!(words >> name)) refuse("it has an empty line");
    const auto size = sizes.find(name);
    if (size != sizes.end()) {
      std::string value;
      std::string more;
      if (!(words >> value) || (words >> more)) refuse("'" + line + "' is not a name and a number");
      if (*size->second != 0) refuse("it says " + name + " twice");
      *size->second = number_in(value, line, kMostSize);
      if (*size->second == 0) refuse("'" + line + "' is nothing to compute with");
      continue;
    }
    Reference reference;
    read_reference(words, line, reference);
    if (!references.emplace(name, std::move(reference)).second) refuse("it says " + name + " twice");
  }
  return references;
}

}  // namespace

StepPlan parse_step_plan(const std::string& text) {
  StepPlan plan;
  plan.references = read_lines(text, "dmdkit plan of steps", {{"unit", &plan.unit_width}});
  return plan;
}

Plan parse_plan(const std::string& text) {
  Plan plan;
  std::map<std::string, int*> sizes = {{"width", &plan.width},
                                       {"heads", &plan.heads},
                                       {"outputs", &plan.outputs},
                                       {"levels", &plan.levels},
                                       {"memory_levels", &plan.memory_levels},
                                       {"real_steps", &plan.real_steps}};
  for (int m = 0; m < kModalityCount; ++m) {
    const std::string name = kModalityNames[m];
    sizes[name + ".steps"] = &plan.inputs[m].steps;
    sizes[name + ".features"] = &plan.inputs[m].features;
    sizes[name + ".kernel"] = &plan.inputs[m].kernel;
  }
  plan.references = read_lines(text, "dmdkit plan", sizes);
  for (const auto& [name, value] : sizes) {
    if (*value == 0 && value != &plan.real_steps) refuse("it lacks " + name);
  }
  if (plan.width % plan.heads != 0) refuse("its heads do not divide its width");
  if (plan.real_steps > 1) refuse("it says real_steps " + std::to_string(plan.real_steps) + ", which is 1 or not there");
  if (plan.levels > kMostLevels || plan.memory_levels > kMostLevels) refuse("it has levels beyond any use");
  for (int m = 0; m < kModalityCount; ++m) {
    if (plan.inputs[m].kernel > plan.inputs[m].steps)
      refuse(std::string("its kernel for ") + kModalityNames[m] + " is too long");
    if (plan.real_steps == 1 &&
        (plan.inputs[m].kernel != plan.inputs[0].kernel || plan.inputs[m].steps != plan.inputs[0].steps))
      refuse("its modalities differ in steps or kernels, and it reads the last real step");
  }
  return plan;
}

}  // namespace dmdkit_native
