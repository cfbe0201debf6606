// ONNX Runtime's official builds look up a host of their maker and write a device id into the user's cache, from the moment the
// library starts. One environment variable, read then and never again, is the only switch that stops both.
#ifndef DMDKIT_SRC_TELEMETRY_HPP_
#define DMDKIT_SRC_TELEMETRY_HPP_

#include <cstdlib>
#include <string>

namespace dmdkit {

// To be called before the library is loaded. A user who set the variable to 0 keeps the telemetry.
inline void switch_off_onnxruntime_telemetry() {
  constexpr const char* kSwitch = "ORT_DISABLE_TELEMETRY";
  const char* found = std::getenv(kSwitch);
  const std::string value = found != nullptr ? found : "";
  if (value != "0" && value != "false" && value != "no" && value != "off") ::setenv(kSwitch, "1", 1);
}

}  // namespace dmdkit

#endif  // DMDKIT_SRC_TELEMETRY_HPP_
