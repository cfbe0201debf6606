// Status and Result<T>: how every fallible call of dmdkit answers. Nothing here throws, and nothing of dmdkit throws across it.
#ifndef DMDKIT_RESULT_HPP_
#define DMDKIT_RESULT_HPP_

#include <cassert>
#include <string>
#include <utility>
#include <variant>

#if defined(__GNUC__)
#define DMDKIT_API __attribute__((visibility("default")))
#else
#define DMDKIT_API
#endif

namespace dmdkit {

// Why a call failed. The numbers are those of dmdkit_status in dmdkit.h and never change.
enum class StatusCode : int {
  kOk = 0,
  kInvalidInput = 1,        // what the caller passed: an input's size or value, an option
  kBundleNotFound = 2,      // no such directory, or it holds no manifest
  kBundleDamaged = 3,       // a file is missing, truncated, edited or inconsistent
  kBundleVersion = 4,       // another schema version
  kFileUnreadable = 5,      // the operating system refused to read a file
  kFileUnwritable = 6,      // the operating system refused to write a file (tools only)
  kGraphUnavailable = 7,    // no such graph, or none has passed parity
  kBackendUnavailable = 8,  // the backend's library or device is not here
  kBackendFailed = 9,       // the backend could not load or run a graph, or gave what is not finite
  kOutOfMemory = 10,
  kCallbackFailed = 11,  // no longer given: Stats counts callbacks that threw
  kInternal = 70,        // a defect of dmdkit
};

// A short description of the code alone, for logs; never null.
DMDKIT_API const char* status_code_name(StatusCode code) noexcept;

// Success, or a code with a message that says what was expected, what came, and what to do next.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;
  Status(StatusCode code, std::string message) noexcept : code_(code), message_(std::move(message)) {}

  bool ok() const noexcept { return code_ == StatusCode::kOk; }
  explicit operator bool() const noexcept { return ok(); }
  StatusCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A value, or the status that says why there is none. Reading the value of a failed result is a programming error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}                 // NOLINT: conversion is the point
  Result(Status status) noexcept : state_(std::in_place_index<1>, std::move(status)) {  // NOLINT
    assert(!std::get_if<1>(&state_)->ok());
  }

  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  T& value() & noexcept {
    assert(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& noexcept {
    assert(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && noexcept {
    assert(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & noexcept { return value(); }
  const T& operator*() const& noexcept { return value(); }
  T* operator->() noexcept { return &value(); }
  const T* operator->() const noexcept { return &value(); }

  // kOk with an empty message for a value.
  Status status() const { return ok() ? Status() : *std::get_if<1>(&state_); }
  StatusCode code() const noexcept { return ok() ? StatusCode::kOk : std::get_if<1>(&state_)->code(); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace dmdkit

#endif  // DMDKIT_RESULT_HPP_
