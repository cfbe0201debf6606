// The instruction sets this library was built for, and the choice among them on this CPU.
#ifndef DMDKIT_BACKENDS_NATIVE_INSTRUCTION_SETS_HPP_
#define DMDKIT_BACKENDS_NATIVE_INSTRUCTION_SETS_HPP_

#include <string>
#include <vector>

#include "kernels.hpp"

namespace dmdkit_native {

// Those that this CPU has, the fastest first; the portable one is always among them.
std::vector<const Kernels*> usable_kernels();

// The first of them, or the one that the environment variable DMDKIT_NATIVE_ISA names. Throws dmdkit_plugin::Problem where
// that is not usable here.
const Kernels& chosen_kernels();

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_INSTRUCTION_SETS_HPP_
