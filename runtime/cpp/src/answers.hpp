// Checks on what a graph answered and on where it is copied to.
#ifndef DMDKIT_SRC_ANSWERS_HPP_
#define DMDKIT_SRC_ANSWERS_HPP_

#include <cstddef>
#include <string>

#include "dmdkit/result.hpp"
#include "dmdkit/types.hpp"
#include "finite.hpp"
#include "session.hpp"

namespace dmdkit {

inline Status check_room(const char* name, MutableFloatView target, std::size_t needed) {
  if (target.data() != nullptr && target.size() == needed) return {};
  return {StatusCode::kInvalidInput, std::string("buffer '") + name + "' has room for " + std::to_string(target.size()) +
                                         " values, expected exactly " + std::to_string(needed)};
}

// A robot must not act on what is no number, whatever made it: an overflow, most likely.
inline Status check_finite(const Session& session, const char* name, FloatView values) {
  if (all_finite(values)) return {};
  return {StatusCode::kBackendFailed, session.name() + ": " + name +
                                          " is not finite for inputs that are; they are larger than the graph's arithmetic "
                                          "holds, or the graph is broken: run `dmdkit check`"};
}

}  // namespace dmdkit

#endif  // DMDKIT_SRC_ANSWERS_HPP_
