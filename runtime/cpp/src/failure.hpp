// How the cold paths (opening, self-check) give up: an exception that carries a Status and never leaves the library, because
// every public entry runs inside guarded(). The hot path returns its Status without throwing.
#ifndef DMDKIT_SRC_FAILURE_HPP_
#define DMDKIT_SRC_FAILURE_HPP_

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "dmdkit/result.hpp"

namespace dmdkit {

class Failure : public std::exception {
 public:
  Failure(StatusCode code, std::string message) : status_(code, std::move(message)) {}
  explicit Failure(Status status) : status_(std::move(status)) {}

  const Status& status() const noexcept { return status_; }
  const char* what() const noexcept override { return status_.message().c_str(); }

 private:
  Status status_;
};

// Runs `body` and turns whatever it throws into a status; `R` is Status or a Result.
template <typename R, typename Body>
R guarded(Body&& body) noexcept {
  // Building a message may itself run out of memory; the last resort then needs none (the text fits a short string).
  try {
    try {
      return std::forward<Body>(body)();
    } catch (const Failure& failure) {
      return failure.status();
    } catch (const std::bad_alloc&) {
      return Status(StatusCode::kOutOfMemory, "out of memory; close other programs or use a smaller batch");
    } catch (const std::exception& error) {
      return Status(StatusCode::kInternal, std::string("a defect of dmdkit: ") + error.what() + "; please report it");
    }
  } catch (...) {
    return Status(StatusCode::kInternal, "out of memory");
  }
}

}  // namespace dmdkit

#endif  // DMDKIT_SRC_FAILURE_HPP_
