// Random fusion graphs as the exporter would write them, without nodes: initialisers and a plan are all the native backend
// reads.
#ifndef DMDKIT_TESTS_NATIVE_MODEL_HPP_
#define DMDKIT_TESTS_NATIVE_MODEL_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "../backends/native/plan.hpp"

namespace dmdkit_native {

// A field of protobuf's wire format.
std::string field(int number, const std::string& bytes);
std::string field(int number, std::uint64_t value);
std::string varint(std::uint64_t value);

struct ModelSizes {
  int width = 10;
  int heads = 2;
  int outputs = 1;
  int levels = 2;
  int steps[kModalityCount] = {9, 9, 9};
  int features[kModalityCount] = {30, 6, 5};
  int kernels[kModalityCount] = {3, 3, 3};
  bool projects[kModalityCount] = {true, false, false};
  bool standardised = false;
  bool int8 = false;
  int prefix = 0;  // steps of a window of the same model that is cut short; 0: whole
};

// The ONNX file of a model of these sizes; the same seed gives the same weights.
std::string model_bytes(const ModelSizes& sizes, unsigned seed = 1);

// The step graph that goes with it: heads with a GD-Unit of width 3, as the exporter writes them.
std::string step_model_bytes(const ModelSizes& sizes, unsigned seed = 2);

// (steps, features) of each modality, some steps empty.
std::vector<std::vector<float>> features_for(const ModelSizes& sizes, unsigned seed = 1);

}  // namespace dmdkit_native

#endif  // DMDKIT_TESTS_NATIVE_MODEL_HPP_
