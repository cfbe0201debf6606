// SHA-256 (FIPS 180-4), for checking a bundle's files against its manifest before anything reads them.
#ifndef DMDKIT_SHA256_HPP_
#define DMDKIT_SHA256_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dmdkit {

// Hashes a stream piece by piece; needs no memory beyond itself.
class Sha256 {
 public:
  Sha256() noexcept;

  // Adds size bytes at data; data may be null only when size is 0.
  void update(const void* data, std::size_t size) noexcept;

  // The digest of everything added so far, as 64 lower-case hexadecimal digits. The object may not be updated after.
  std::string hex_digest();

 private:
  void compress(const std::uint8_t* block) noexcept;

  std::array<std::uint32_t, 8> state_;
  std::array<std::uint8_t, 64> buffer_{};
  std::size_t buffered_ = 0;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace dmdkit

#endif  // DMDKIT_SHA256_HPP_
