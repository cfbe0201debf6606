#include "step_state.hpp"

namespace dmdkit {

StepState::StepState(const Manifest& manifest) : record_(*manifest.stream), kept_(record_.kernel - 1) {
  for (std::size_t i = 0; i < kModalities; ++i) widths_[i] = manifest.inputs[i].info.features;
}

Status StepState::not_finite(const std::string& graph) const {
  return {StatusCode::kBackendFailed, graph +
                                          ": an answer is not finite for inputs that are; they are larger than the graph's "
                                          "arithmetic holds, or the graph is broken: run `dmdkit check`"};
}

}  // namespace dmdkit
