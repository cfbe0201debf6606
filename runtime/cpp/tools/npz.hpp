// The float arrays of an .npz file as numpy.savez writes it: a zip of .npy members, stored without compression. (A compressed
// one, from savez_compressed, is refused with advice.)
#ifndef DMDKIT_TOOLS_NPZ_HPP_
#define DMDKIT_TOOLS_NPZ_HPP_

#include "safetensors.hpp"

namespace dmdkit {

// Members that are little-endian float32 or float64 in C order; others (ids, labels as integers) are left out. Throws
// Malformed.
Tensors parse_npz(const unsigned char* data, std::size_t size);

}  // namespace dmdkit

#endif  // DMDKIT_TOOLS_NPZ_HPP_
