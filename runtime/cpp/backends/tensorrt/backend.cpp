// The plug-in interface (src/backend_abi.h) over an engine session. Neither CUDA nor TensorRT is named here.
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "engine_session.hpp"

struct dmdkit_backend_session {
  std::unique_ptr<dmdkit_tensorrt::EngineSession> engine;
};

namespace {

using Session = dmdkit_backend_session;
using dmdkit_tensorrt::EngineSession;
using dmdkit_tensorrt::Problem;

template <typename Body>
int answered(char* error, std::size_t error_size, Body&& body) noexcept {
  try {
    body();
    return DMDKIT_BACKEND_OK;
  } catch (const Problem& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
    return problem.code();
  } catch (const std::bad_alloc&) {
    std::snprintf(error, error_size, "out of memory");
    return DMDKIT_BACKEND_NO_MEMORY;
  } catch (const std::exception& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
  } catch (...) {
    std::snprintf(error, error_size, "unknown failure");
  }
  return DMDKIT_BACKEND_FAILED;
}

const char* describe_backend() noexcept {
  static const std::string* text = [] {
    const dmdkit_tensorrt::Platform here = dmdkit_tensorrt::platform();
    return new std::string(here.library.flavour() + " " + here.library.version());
  }();
  return text->c_str();
}

int open_session(const dmdkit_backend_open_args* args, Session** result, char* error, std::size_t error_size) noexcept {
  *result = nullptr;
  return answered(error, error_size, [&] {
    if (args->engine == nullptr) throw Problem(DMDKIT_BACKEND_FAILED, "no engine to open");
    auto session = std::make_unique<Session>();
    session->engine = std::make_unique<EngineSession>(dmdkit_tensorrt::platform(), *args->engine, args->graph);
    *result = session.release();
  });
}

std::size_t input_count(const Session* session) noexcept { return session->engine->inputs().size(); }
std::size_t output_count(const Session* session) noexcept { return session->engine->outputs().size(); }

void input(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const EngineSession::Tensor& found = session->engine->inputs()[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

void output(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const EngineSession::Tensor& found = session->engine->outputs()[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

int bind_session(Session* session, std::size_t batch, float* const* inputs, float* const* outputs, char* error,
                 std::size_t error_size) noexcept {
  return answered(error, error_size, [&] { session->engine->bind(batch, inputs, outputs); });
}

int run_session(Session* session, char* error, std::size_t error_size) noexcept {
  return answered(error, error_size, [&] { session->engine->run(); });
}

void close_session(Session* session) noexcept { delete session; }
const char* note(const Session* session) noexcept { return session->engine->note().c_str(); }

const dmdkit_backend_vtable kTable = {DMDKIT_BACKEND_ABI_VERSION,
                                      sizeof(dmdkit_backend_vtable),
                                      &describe_backend,
                                      &open_session,
                                      &input_count,
                                      &output_count,
                                      &input,
                                      &output,
                                      &bind_session,
                                      &run_session,
                                      &close_session,
                                      1,
                                      &note};

}  // namespace

extern "C" __attribute__((visibility("default"))) const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t abi_version) {
  return abi_version == DMDKIT_BACKEND_ABI_VERSION ? &kTable : nullptr;
}
