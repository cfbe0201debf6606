// What the files of the C interface share: its handles, its structs of any version, and how a Status becomes its answer.
#ifndef DMDKIT_SRC_C_STRUCTS_HPP_
#define DMDKIT_SRC_C_STRUCTS_HPP_

#include <cstddef>
#include <cstring>
#include <string>

#include "dmdkit/dmdkit.h"
#include "dmdkit/runtime.hpp"
#include "failure.hpp"

struct dmdkit_runtime {
  dmdkit::Runtime runtime;
};

struct dmdkit_stream {
  dmdkit::Stream stream;
};

namespace dmdkit::c {

// No struct of ours, of any version, comes near; a larger size is memory that nobody initialised.
inline constexpr std::size_t kMaxStructBytes = 4096;

// The text a thread can ask for after a failure; kept only while it can be stored.
inline std::string& last_error() {
  thread_local std::string text;
  return text;
}

inline dmdkit_status answer(const Status& status) noexcept {
  try {
    last_error() = status.message();
  } catch (...) {
    last_error().clear();
  }
  return static_cast<dmdkit_status>(status.code());
}

inline dmdkit_status null_pointer(const char* what) noexcept {
  return answer(dmdkit::guarded<Status>([&] { return Status(StatusCode::kInvalidInput, std::string(what) + " is null"); }));
}

// A struct with its size and nothing else; false if there is none.
template <typename T>
bool reset(T* target) noexcept {
  if (target == nullptr) return false;
  *target = T{};
  target->struct_size = sizeof *target;
  return true;
}

// Whether a caller's struct, which may be null, was initialised.
template <typename T>
bool is_versioned(const T* target) noexcept {
  return target == nullptr || (target->struct_size >= sizeof(std::size_t) && target->struct_size <= kMaxStructBytes);
}

// A caller's struct as far as both sides know it: what an older caller does not have keeps its default. False if it is no
// struct of ours at all.
template <typename T>
bool read_versioned(const T* from, T& to) noexcept {
  if (!is_versioned(from)) return false;
  std::memcpy(&to, from, from->struct_size < sizeof(T) ? from->struct_size : sizeof(T));
  return true;
}

template <typename T>
bool write_versioned(T from, T* to) noexcept {
  if (!is_versioned(to)) return false;
  const std::size_t size = to->struct_size;
  from.struct_size = size;
  std::memcpy(to, &from, size < sizeof(T) ? size : sizeof(T));
  return true;
}

inline Status not_initialised(const char* what) {
  return {StatusCode::kInvalidInput, std::string(what) + " was not initialised; call its _init function first"};
}

inline std::string text_or(const char* text, const char* fallback) { return text != nullptr ? text : fallback; }

}  // namespace dmdkit::c

#endif  // DMDKIT_SRC_C_STRUCTS_HPP_
