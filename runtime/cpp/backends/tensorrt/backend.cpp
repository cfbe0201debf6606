// The plug-in over an engine session. Neither CUDA nor TensorRT is named here.
#include <memory>
#include <string>
#include <vector>

#include "../plugin.hpp"
#include "engine_session.hpp"

using dmdkit_tensorrt::EngineSession;

struct dmdkit_backend_session : EngineSession {
  using EngineSession::EngineSession;

  static std::unique_ptr<dmdkit_backend_session> open(const dmdkit_backend_open_args& args) {
    if (args.engine == nullptr) throw dmdkit_plugin::Problem(DMDKIT_BACKEND_FAILED, "no engine to open");
    return std::make_unique<dmdkit_backend_session>(dmdkit_tensorrt::platform(), *args.engine, args.graph);
  }

  const char* note() const noexcept { return EngineSession::note().c_str(); }
};

namespace {

const char* describe_backend() {
  static const std::string* text = [] {
    const dmdkit_tensorrt::Platform here = dmdkit_tensorrt::platform();
    return new std::string(here.library.flavour() + " " + here.library.version());
  }();
  return text->c_str();
}

constexpr dmdkit_backend_vtable kTable = dmdkit_plugin::table_of<dmdkit_backend_session>(&describe_backend, true);

}  // namespace

DMDKIT_BACKEND_DEFINE_ENTRY(kTable);
