#include "shared_library.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>

namespace dmdkit {
namespace {

bool is_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

bool is_whole_elf(const std::string& path) {
  struct stat info {};
  Elf64_Ehdr header{};
  std::ifstream stream(path, std::ios::binary);
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  if (!stream.read(reinterpret_cast<char*>(&header), sizeof header)) return false;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return false;
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const std::uint64_t table = std::uint64_t{header.e_shnum} * header.e_shentsize;
  return header.e_shoff <= size && table <= size - header.e_shoff;
}

std::string library_of(const void* symbol) {
  Dl_info info{};
  return ::dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

std::string find_library(const std::string& name, const void* symbol) {
  const std::unique_ptr<void, int (*)(void*)> self(::dlopen(library_of(symbol).c_str(), RTLD_NOW | RTLD_NOLOAD), &::dlclose);
  Dl_serinfo wanted{};
  if (self == nullptr || ::dlinfo(self.get(), RTLD_DI_SERINFOSIZE, &wanted) != 0) return "";
  const std::unique_ptr<void, void (*)(void*)> memory(::operator new(wanted.dls_size), [](void* p) { ::operator delete(p); });
  auto* paths = static_cast<Dl_serinfo*>(memory.get());
  *paths = wanted;  // dlinfo reads the size and count it gave
  if (::dlinfo(self.get(), RTLD_DI_SERINFO, paths) != 0) return "";
  for (unsigned i = 0; i < paths->dls_cnt; ++i) {
    const std::string path = std::string((paths->dls_serpath + i)->dls_name) + "/" + name;
    if (is_file(path)) return path;
  }
  return "";
}

}  // namespace dmdkit
