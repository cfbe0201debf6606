#include "dmdkit/result.hpp"

namespace dmdkit {

const char* status_code_name(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::kOk:
      return "ok";
    case StatusCode::kInvalidInput:
      return "invalid input or option";
    case StatusCode::kBundleNotFound:
      return "no such bundle";
    case StatusCode::kBundleDamaged:
      return "damaged bundle";
    case StatusCode::kBundleVersion:
      return "bundle of another schema version";
    case StatusCode::kFileUnreadable:
      return "file cannot be read";
    case StatusCode::kFileUnwritable:
      return "file cannot be written";
    case StatusCode::kGraphUnavailable:
      return "no such graph, or none has passed parity";
    case StatusCode::kBackendUnavailable:
      return "backend or device not available";
    case StatusCode::kBackendFailed:
      return "backend failed";
    case StatusCode::kOutOfMemory:
      return "out of memory";
    case StatusCode::kCallbackFailed:
      return "the application's callback failed";
    case StatusCode::kInternal:
      return "defect of dmdkit";
  }
  return "unknown status code";
}

}  // namespace dmdkit
