// A backend for tests: no inference library, no threads, no allocation after bind. The "model" is a line of text:
//
//   fake score=1 logit_homo=3x1 ... | text=20x32 audio=20x12 ... [fail_run] [fail_bind] [no_device] [throttle_us=N]
//
// Every output value is the mean of all input values of its sample plus its index, so that tests know what to expect.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../../src/backend_abi.h"

struct dmdkit_backend_session {
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::size_t values = 1;
    float* buffer = nullptr;
  };
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  std::size_t batch = 0;
  bool fail_run = false;
  bool fail_bind = false;
  long throttle_us = 0;
};

namespace {

using Session = dmdkit_backend_session;

int problem(char* error, std::size_t size, int code, const char* text) noexcept {
  std::snprintf(error, size, "%s", text);
  return code;
}

Session::Tensor parse_tensor(const std::string& word, std::size_t equals) {
  Session::Tensor tensor;
  tensor.name = word.substr(0, equals);
  tensor.shape.push_back(-1);
  std::istringstream sizes(word.substr(equals + 1));
  std::string size;
  while (std::getline(sizes, size, 'x')) {
    tensor.shape.push_back(std::stoll(size));
    tensor.values *= static_cast<std::size_t>(tensor.shape.back());
  }
  return tensor;
}

int open_session(const dmdkit_backend_open_args* args, Session** result, char* error, std::size_t error_size) noexcept {
  *result = nullptr;
  try {
    auto session = std::make_unique<Session>();
    std::istringstream model(std::string(static_cast<const char*>(args->model), args->model_bytes));
    std::string word;
    if (!(model >> word) || word != "fake")
      return problem(error, error_size, DMDKIT_BACKEND_FAILED, "fake cannot load the graph");
    bool inputs = false;
    while (model >> word) {
      const std::size_t equals = word.find('=');
      if (word == "|") {
        inputs = true;
      } else if (word == "no_device") {
        return problem(error, error_size, DMDKIT_BACKEND_NO_DEVICE, "fake has no such device");
      } else if (word == "fail_run") {
        session->fail_run = true;
      } else if (word == "fail_bind") {
        session->fail_bind = true;
      } else if (word.rfind("throttle_us=", 0) == 0) {
        session->throttle_us = std::stol(word.substr(equals + 1));
      } else if (equals != std::string::npos) {
        (inputs ? session->inputs : session->outputs).push_back(parse_tensor(word, equals));
      }
    }
    *result = session.release();
    return DMDKIT_BACKEND_OK;
  } catch (const std::exception& cause) {
    return problem(error, error_size, DMDKIT_BACKEND_FAILED, cause.what());
  }
}

std::size_t input_count(const Session* session) noexcept { return session->inputs.size(); }
std::size_t output_count(const Session* session) noexcept { return session->outputs.size(); }

void input(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const Session::Tensor& found = session->inputs[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

void output(const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) noexcept {
  const Session::Tensor& found = session->outputs[index];
  *tensor = {found.name.c_str(), found.shape.data(), found.shape.size()};
}

int bind_session(Session* session, std::size_t batch, float* const* inputs, float* const* outputs, char* error,
                 std::size_t error_size) noexcept {
  if (session->fail_bind) return problem(error, error_size, DMDKIT_BACKEND_NO_MEMORY, "fake has no memory");
  for (std::size_t i = 0; i < session->inputs.size(); ++i) session->inputs[i].buffer = inputs[i];
  for (std::size_t i = 0; i < session->outputs.size(); ++i) session->outputs[i].buffer = outputs[i];
  session->batch = batch;
  return DMDKIT_BACKEND_OK;
}

int run_session(Session* session, char* error, std::size_t error_size) noexcept {
  if (session->fail_run) return problem(error, error_size, DMDKIT_BACKEND_FAILED, "fake failed to run");
  if (session->throttle_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(session->throttle_us));
  for (std::size_t sample = 0; sample < session->batch; ++sample) {
    double sum = 0.0;
    std::size_t count = 0;
    for (const Session::Tensor& tensor : session->inputs) {
      for (std::size_t i = 0; i < tensor.values; ++i) sum += tensor.buffer[sample * tensor.values + i];
      count += tensor.values;
    }
    for (const Session::Tensor& tensor : session->outputs) {
      for (std::size_t i = 0; i < tensor.values; ++i) {
        tensor.buffer[sample * tensor.values + i] =
            static_cast<float>(sum / static_cast<double>(count) + static_cast<double>(i));
      }
    }
  }
  return DMDKIT_BACKEND_OK;
}

void close_session(Session* session) noexcept { delete session; }
const char* describe_backend() noexcept { return "fake 1"; }

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
                                      0,
                                      nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t abi_version) {
  return abi_version == DMDKIT_BACKEND_ABI_VERSION ? &kTable : nullptr;
}
