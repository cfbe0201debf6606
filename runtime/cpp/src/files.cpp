#include "files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

}  // namespace

bool is_directory(const std::string& path) noexcept {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::optional<std::uint64_t> regular_file_size(const std::string& path) noexcept {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return static_cast<std::uint64_t>(info.st_size);
}

bool stays_inside(const std::string& path, const std::string& folder) {
  if (!regular_file_size(path)) return false;
  std::error_code problem;
  const std::string whole = std::filesystem::canonical(path, problem).string();
  const std::string inside = problem ? "" : std::filesystem::canonical(folder, problem).string() + "/";
  return !problem && whole.compare(0, inside.size(), inside) == 0;
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
