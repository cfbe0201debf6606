// Loads a backend plug-in, libdmdkit_NAME.so, when a graph is first opened with it. A loaded plug-in stays for the process:
// unloading inference libraries that own threads is not safe.
#ifndef DMDKIT_SRC_BACKEND_LIBRARY_HPP_
#define DMDKIT_SRC_BACKEND_LIBRARY_HPP_

#include <string>

#include "dmdkit/backend.h"

namespace dmdkit {

// The plug-in's table. `directory` is searched first; if it is empty, the folder of libdmdkit itself and then the loader's
// path. Throws Failure with kBackendUnavailable.
const dmdkit_backend_vtable& load_backend(const std::string& name, const std::string& directory);

// Whether a backend runs text graphs.
bool takes_tokens(const dmdkit_backend_vtable& table) noexcept;

// Whether a backend keeps the state of streams itself.
bool keeps_steps(const dmdkit_backend_vtable& table) noexcept;

}  // namespace dmdkit

#endif  // DMDKIT_SRC_BACKEND_LIBRARY_HPP_
