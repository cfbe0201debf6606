#include "files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

namespace dmdkit {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

// Part by part, because a folder may be the root, and a name may begin with another's.
bool lies_in(const std::string& path, const std::string& folder) {
  std::error_code problem;
  const std::filesystem::path whole = std::filesystem::canonical(path, problem);
  const std::filesystem::path inside = problem ? whole : std::filesystem::canonical(folder, problem);
  return !problem && whole != inside &&
         std::mismatch(inside.begin(), inside.end(), whole.begin(), whole.end()).first == inside.end();
}

}  // namespace

int directory_error(const std::string& path) noexcept {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return errno;
  return S_ISDIR(info.st_mode) ? 0 : ENOTDIR;
}

std::string absolute_path(const std::string& path) { return std::filesystem::absolute(path).string(); }

std::optional<std::uint64_t> regular_file_size(const std::string& path) noexcept {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return static_cast<std::uint64_t>(info.st_size);
}

bool stays_inside(const std::string& path, const std::string& folder) {
  return regular_file_size(path).has_value() && lies_in(path, folder);
}

bool folder_stays_inside(const std::string& path, const std::string& folder) {
  return directory_error(path) != 0 || lies_in(path, folder);
}

ReadOutcome read_file(const std::string& path, std::uint64_t limit_bytes) {
  ReadOutcome outcome;
  // O_NONBLOCK: opening a pipe must not wait for a writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (file.value() < 0 || ::fstat(file.value(), &info) != 0) {
    outcome.error = errno;
    return outcome;
  }
  if (!S_ISREG(info.st_mode)) {
    outcome.error = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    return outcome;
  }
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > limit_bytes) {
    outcome.too_large = true;
    return outcome;
  }
  outcome.bytes.resize(size);
  std::size_t read = 0;
  while (read < size) {
    const ssize_t got = ::read(file.value(), outcome.bytes.data() + read, size - read);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      outcome.error = errno;
      return outcome;
    }
    if (got == 0) break;  // it shrank meanwhile; its hash will say so
    read += static_cast<std::size_t>(got);
  }
  outcome.bytes.resize(read);
  return outcome;
}

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace dmdkit
