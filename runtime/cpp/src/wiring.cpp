#include "wiring.hpp"

#include "failure.hpp"
#include "json_fields.hpp"
#include "real_steps.hpp"

namespace dmdkit {
namespace {

[[noreturn]] void damaged(const Session& session, const std::string& name) {
  throw Failure(StatusCode::kBundleDamaged,
                session.name() + ": " + in_quotes(name) +
                    " is missing or has other sizes than the manifest says; export the bundle again");
}

const Port* output_of(const Session& session, const std::string& name, const std::vector<std::size_t>& sizes, bool required) {
  const Port* port = session.find_output(name);
  if (port == nullptr && !required) return nullptr;
  if (port == nullptr || port->sizes != sizes) damaged(session, name);
  return port;
}

}  // namespace

Wiring wire(const Session& session, const Manifest& manifest, bool explain) {
  Wiring wiring;
  for (std::size_t i = 0; i < kModalities; ++i) {
    const InputInfo& info = manifest.inputs[i].info;
    wiring.inputs[i] = session.find_input(info.name);
    if (wiring.inputs[i] == nullptr || wiring.inputs[i]->sizes != std::vector<std::size_t>{info.steps, info.features}) {
      damaged(session, info.name);
    }
  }
  if (manifest.real_steps) {
    wiring.steps = session.find_input(kStepsInput);
    if (wiring.steps == nullptr || !wiring.steps->sizes.empty()) damaged(session, kStepsInput);
  }
  if (session.inputs().size() != kModalities + (manifest.real_steps ? 1 : 0)) damaged(session, session.inputs().back().name);
  const std::size_t c = manifest.num_outputs;
  wiring.score = output_of(session, "score", {c}, true);
  if (explain) {
    wiring.logit_homo = output_of(session, "logit_homo", {kModalities, c}, true);
    wiring.logit_hetero = output_of(session, "logit_hetero", {kModalities, c}, true);
    wiring.edges_homo = output_of(session, "edges_homo", {kEdges}, false);
    wiring.edges_hetero = output_of(session, "edges_hetero", {kEdges}, false);
  }
  return wiring;
}

}  // namespace dmdkit
