// What a step answers beside the score: each modality's logits from its memory stream, and the edges between them. Their
// weights stand in the step graph; a fusion graph has none of them.
#ifndef DMDKIT_BACKENDS_NATIVE_HEADS_HPP_
#define DMDKIT_BACKENDS_NATIVE_HEADS_HPP_

#include <array>

#include "kernels.hpp"
#include "onnx_file.hpp"
#include "weights.hpp"

namespace dmdkit_native {

constexpr int kEdgeCount = 6;

struct Heads {
  // Of the step graph that goes with `weights`. Throws dmdkit_plugin::Problem.
  Heads(const OnnxFile& file, const Weights& weights);
  Heads(const Heads&) = delete;
  Heads& operator=(const Heads&) = delete;

  struct Head {
    const float* scale = nullptr;  // what takes a memory stream's unit vector to its normalised one
    const float* shift = nullptr;
    Dense first;
    Dense second;
    Dense out;
  };
  std::array<Head, kModalityCount> head;
  int unit_width = 0;  // of each half of a modality's embedding in the GD-Unit; 0: there is none
  Dense unit_logit;
  Dense unit_representation;
  Dense unit_edge;
  Arena arena;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_HEADS_HPP_
