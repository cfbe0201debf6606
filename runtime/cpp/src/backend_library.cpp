#include "backend_library.hpp"

#include <dlfcn.h>
#include <elf.h>

#include <cstring>
#include <fstream>
#include <optional>

#include "failure.hpp"
#include "files.hpp"
#include "json_fields.hpp"

namespace dmdkit {
namespace {

// A symbol of this library, to find its file.
void here() {}

std::string own_directory() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&here), &info) == 0 || info.dli_fname == nullptr) return "";
  const std::string file = info.dli_fname;
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
  return regular_file_size(beside) ? beside : file;
}

}  // namespace

bool is_whole_elf(const std::string& path) {
  const std::optional<std::uint64_t> size = regular_file_size(path);
  Elf64_Ehdr header{};
  std::ifstream stream(path, std::ios::binary);
  if (!size || !stream.read(reinterpret_cast<char*>(&header), sizeof header)) return false;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return false;
  const std::uint64_t table = std::uint64_t{header.e_shnum} * header.e_shentsize;
  return header.e_shoff <= *size && table <= *size - header.e_shoff;
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
  if (table == nullptr || table->abi_version != DMDKIT_BACKEND_ABI_VERSION || table->struct_size < sizeof *table) {
    throw unavailable(
        name, path + " speaks another version of the backend interface than " + std::to_string(DMDKIT_BACKEND_ABI_VERSION));
  }
  return *table;
}

}  // namespace dmdkit
