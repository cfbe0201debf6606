// Shared libraries before the dynamic loader sees them: it ends the process with SIGBUS on a truncated one, which a full disk
// or a broken copy leaves behind. Compiled into the core and into plug-ins, which share no code at run time.
#ifndef DMDKIT_SRC_SHARED_LIBRARY_HPP_
#define DMDKIT_SRC_SHARED_LIBRARY_HPP_

#include <string>

namespace dmdkit {

// Whether `path` is a 64-bit ELF file that holds its section table, which comes last.
bool is_whole_elf(const std::string& path);

// The file of the library that holds `symbol`, or an empty text.
std::string library_of(const void* symbol);

// The file that the loader would take for `name` when the library holding `symbol` asks for it, as far as its search path says
// (not its cache); an empty text if there is none.
std::string find_library(const std::string& name, const void* symbol);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_SHARED_LIBRARY_HPP_
