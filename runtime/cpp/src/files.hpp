// Whole files into memory, within a limit; only regular files, so that a pipe or a device in a bundle cannot hold a reader up.
#ifndef DMDKIT_SRC_FILES_HPP_
#define DMDKIT_SRC_FILES_HPP_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dmdkit {

using Bytes = std::vector<unsigned char>;

// 0 for a directory, otherwise errno; ENOTDIR for anything else.
int directory_error(const std::string& path) noexcept;

// `path` from the root, so that it means the same after the process changed its directory.
std::string absolute_path(const std::string& path);

// The size of a regular file; nothing if there is none.
std::optional<std::uint64_t> regular_file_size(const std::string& path) noexcept;

// Whether `path` is a regular file of `folder` after every link was followed: a bundle copied as links would otherwise read
// whatever they point at on the machine it arrives on.
bool stays_inside(const std::string& path, const std::string& folder);

// The same of a folder; true if there is none.
bool folder_stays_inside(const std::string& path, const std::string& folder);

// What reading gave: the bytes, or why there are none.
struct ReadOutcome {
  Bytes bytes;
  int error = 0;           // errno
  bool too_large = false;  // more than the limit
};

// Reads a regular file of at most `limit_bytes`.
ReadOutcome read_file(const std::string& path, std::uint64_t limit_bytes);

// strerror without its shared buffer.
std::string error_text(int error);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_FILES_HPP_
