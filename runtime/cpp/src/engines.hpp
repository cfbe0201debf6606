// The engines of a bundle that may be opened here, as far as that is known without the library that runs them.
#ifndef DMDKIT_SRC_ENGINES_HPP_
#define DMDKIT_SRC_ENGINES_HPP_

#include <string>
#include <vector>

#include "bundle.hpp"
#include "engine_record.hpp"

namespace dmdkit {

struct Engine {
  std::string name;  // TARGET.KIND.PRECISION
  EngineRecord record;
};

// "linux-x86_64", as sidecars name it.
std::string this_platform();

// The engines of one graph that belong to this bundle and this kind of machine and have proven themselves, in the order of
// their names; `refused` gets the reason for each of the others.
std::vector<Engine> engines_of(const Bundle& bundle, const std::string& graph, std::vector<std::string>& refused);

// The plan, after its hash was checked. Throws Failure.
Bytes read_plan(const Bundle& bundle, const Engine& engine);

// The graphs of `kind` to try engines of, best first: those asked for by full name or precision, or with an empty `wanted`
// those that passed parity. Throws Failure where there is none.
std::vector<std::string> engine_graphs(const Manifest& manifest, const std::string& kind, const std::string& wanted);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_ENGINES_HPP_
