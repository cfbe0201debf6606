// Which ports of a session a Runtime feeds and reads.
#ifndef DMDKIT_SRC_WIRING_HPP_
#define DMDKIT_SRC_WIRING_HPP_

#include <array>

#include "dmdkit/types.hpp"
#include "manifest.hpp"
#include "session.hpp"

namespace dmdkit {

// What a session's inputs and outputs must be for the runtime to use them, resolved once so that no name is looked up later.
struct Wiring {
  std::array<const Port*, kModalities> inputs{};
  const Port* steps = nullptr;  // null but for a model of real steps
  const Port* score = nullptr;
  const Port* logit_homo = nullptr;
  const Port* logit_hetero = nullptr;
  const Port* edges_homo = nullptr;  // null without GD-Units
  const Port* edges_hetero = nullptr;
};

// Throws Failure where the session is not what the manifest says.
Wiring wire(const Session& session, const Manifest& manifest, bool explain);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_WIRING_HPP_
