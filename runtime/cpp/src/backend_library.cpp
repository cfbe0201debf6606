#include "backend_library.hpp"

#include <dlfcn.h>

#include <cstddef>

#include "failure.hpp"
#include "files.hpp"
#include "json_fields.hpp"
#include "shared_library.hpp"

namespace dmdkit {
namespace {

// A symbol of this library, to find its file.
void here() {}

std::string own_directory() {
  const std::string file = library_of(reinterpret_cast<const void*>(&here));
  const std::size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash);
}

Failure unavailable(const std::string& name, const std::string& cause) {
  return Failure(StatusCode::kBackendUnavailable, "backend " + in_quotes(name) + " cannot be loaded: " + cause +
                                                      "; install it beside libdmdkit.so, or set the backend directory");
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() < 64 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
}

// The file to load: a path where there is such a file, otherwise the bare name for the loader to find.
std::string library_path(const std::string& name, const std::string& directory) {
  const std::string file = "libdmdkit_" + name + ".so";
  if (!directory.empty()) return directory + "/" + file;
  const std::string beside = own_directory() + "/" + file;
  if (regular_file_size(beside)) return beside;
  const std::string found = find_library(file, reinterpret_cast<const void*>(&here));
  return found.empty() ? file : found;
}

// What came later may be missing.
constexpr std::size_t kLeastTableBytes = offsetof(dmdkit_backend_vtable, run_tokens);

}  // namespace

bool takes_tokens(const dmdkit_backend_vtable& table) noexcept {
  return table.struct_size >= offsetof(dmdkit_backend_vtable, share) && table.run_tokens != nullptr;
}

bool keeps_steps(const dmdkit_backend_vtable& table) noexcept {
  return table.struct_size >= sizeof table && table.step != nullptr && table.read_state != nullptr &&
         table.write_state != nullptr && table.share != nullptr;
}

const dmdkit_backend_vtable& load_backend(const std::string& name, const std::string& directory) {
  if (!is_plain_name(name)) {
    throw Failure(StatusCode::kInvalidInput, "backend=" + in_quotes(name) + ": expected a name such as onnxruntime");
  }
  const std::string path = library_path(name, directory);
  if (path.find('/') != std::string::npos && !is_whole_elf(path)) {
    throw unavailable(name, regular_file_size(path) ? path + " is damaged" : path + " is missing");
  }
  // Never closed, see above; loading it again only counts.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* cause = ::dlerror();
    throw unavailable(name, cause != nullptr ? cause : "unknown cause");
  }
  const auto entry = reinterpret_cast<dmdkit_backend_entry_function>(::dlsym(library, DMDKIT_BACKEND_ENTRY));
  if (entry == nullptr) throw unavailable(name, path + " is not a backend of dmdkit");
  const dmdkit_backend_vtable* table = entry(DMDKIT_BACKEND_ABI_VERSION);
  if (table == nullptr || table->abi_version != DMDKIT_BACKEND_ABI_VERSION || table->struct_size < kLeastTableBytes) {
    throw unavailable(
        name, path + " speaks another version of the backend interface than " + std::to_string(DMDKIT_BACKEND_ABI_VERSION));
  }
  return *table;
}

}  // namespace dmdkit
