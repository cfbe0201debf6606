#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "failure.hpp"
#include "refused.hpp"
#include "text/tokenizer.hpp"

// Any bytes give a tokenizer or a Failure, and any sentence behind a zero byte its tokens or a Failure.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const void* zero = size > 0 ? std::memchr(data, 0, size) : nullptr;
  const std::size_t end = zero != nullptr ? static_cast<std::size_t>(static_cast<const std::uint8_t*>(zero) - data) : size;
  constexpr std::size_t kMaxTokens = 16;
  try {
    const dmdkit::text::Tokenizer tokenizer(data, end, "fuzz", 1000, kMaxTokens);
    const std::size_t begin = end < size ? end + 1 : size;
    const dmdkit::text::Tokens tokens = tokenizer({reinterpret_cast<const char*>(data) + begin, size - begin}, 0);
    if (tokens.ids.size() > kMaxTokens) std::abort();
  } catch (const dmdkit::Failure& failure) {
    if (failure.status().ok()) std::abort();
    refused(failure);
  }
  return 0;
}
