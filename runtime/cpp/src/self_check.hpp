// Compares a graph's outputs now with those recorded at export, by the rule of
// dmdkit.runtime.self_check in Python; tests/vectors holds both to it.
#ifndef DMDKIT_SRC_SELF_CHECK_HPP_
#define DMDKIT_SRC_SELF_CHECK_HPP_

#include <map>
#include <optional>
#include <string>

#include "bundle.hpp"
#include "dmdkit/types.hpp"

namespace dmdkit {

// fp32 outputs moved by 1.5e-7 between ONNX Runtime 1.22 and 1.31; 1e-5 (times max(1, |value|)) leaves room for other CPUs.
inline constexpr double kFp32Tolerance = 1e-5;

// A GPU sums in another order than the CPU that recorded: the fp32 hop's limit, times max(1, sd of the output).
inline constexpr double kEngineFp32Tolerance = 1e-4;

// Integer kernels differ between library versions and CPUs by about 1e-3; in standard deviations of the output. A graph that
// only stores INT8 has none of them and is held to what an fp32 graph is.
inline constexpr double kInt8ToleranceSd = 0.1;
inline constexpr double kInt8MinCorrelation = 0.999;

// A text encoder's features: sums over all of its width, and ranges that are those of the whole call; in standard deviations of
// what was recorded.
inline constexpr double kTextFp32Tolerance = 1e-4;
inline constexpr double kInt8TextToleranceSd = 2.0;
inline constexpr double kInt8TextMinCorrelation = 0.99;

// Pearson correlation; nothing where either side is constant or has fewer than two values.
std::optional<double> correlation(FloatView x, FloatView y);

// How far one output may be from what was recorded.
struct Limit {
  double largest;                     // error
  bool relative;                      // whether errors count in units of max(1, |value|)
  std::optional<double> correlation;  // the least; nothing: any
};

// `then`: the recorded values, or null. `output_sd`: standard deviation of the model's score. `exact`: whether the graph computes
// in fp32.
Limit limit_of(const std::string& output, const Tensor* then, double output_sd, bool exact, bool engine);

// Compares a graph's outputs with those it gave when it was exported (name -> tensor). The result names the output that used
// most of its tolerance, with its error, infinite where the two cannot be compared.
GraphCheck check_outputs(const std::string& graph, const std::string& precision, const Tensors& found, const Tensors& recorded,
                         double output_sd, bool only_stores_int8 = false, bool engine = false);

// Replays the golden samples through one graph. Throws Failure.
GraphCheck check_graph(const Bundle& bundle, const Golden& golden, const std::string& graph, const Options& options);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_SELF_CHECK_HPP_
