// Whether numbers are numbers: asked of inputs at every prediction, of outputs, and of what a bundle recorded.
#ifndef DMDKIT_SRC_FINITE_HPP_
#define DMDKIT_SRC_FINITE_HPP_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dmdkit/types.hpp"

namespace dmdkit {

// Without branches, so that the compiler can use vector instructions: a float is finite unless all exponent bits are set.
inline bool all_finite(FloatView values) noexcept {
  constexpr std::uint32_t kExponent = 0x7F800000U;
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values.data() + i, sizeof bits);
    bad |= static_cast<std::uint32_t>((bits & kExponent) == kExponent);
  }
  return bad == 0;
}

}  // namespace dmdkit

#endif  // DMDKIT_SRC_FINITE_HPP_
