// The float arrays of an .npz file: a zip of .npy members, stored (numpy.savez) or, where zlib was found, deflated
// (savez_compressed). Without zlib a compressed one is refused with advice.
#ifndef DMDKIT_TOOLS_NPZ_HPP_
#define DMDKIT_TOOLS_NPZ_HPP_

#include <cstdint>

#include "safetensors.hpp"

namespace dmdkit {

// How many times its size a deflated member can give, rounded up: 258 bytes from two bits, and a little for what is short.
inline constexpr std::uint64_t kMaxInflation = 1100;

// Members that are little-endian float32 or float64 in C order; others (ids, labels as integers) are left out, and
// their names added to `left_out`, unless that is null. Throws Malformed.
Tensors parse_npz(const unsigned char* data, std::size_t size, std::set<std::string>* left_out = nullptr);

}  // namespace dmdkit

#endif  // DMDKIT_TOOLS_NPZ_HPP_
