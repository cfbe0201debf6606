#include "token_session.hpp"

#include <cstring>

#include "backend_library.hpp"
#include "failure.hpp"
#include "json_fields.hpp"
#include "session.hpp"

namespace dmdkit::text {
namespace {

constexpr std::size_t kErrorBytes = 512;
constexpr const char* kInputs[] = {"input_ids", "attention_mask"};
constexpr char kOnnxRuntime[] = "onnxruntime";

// What reads words: an engine's backend takes no ONNX file, and not every other takes tokens.
const dmdkit_backend_vtable& backend_for(const Options& options) {
  const dmdkit_backend_vtable& wanted = load_backend(options.backend, options.backend_directory);
  const bool able = wanted.takes_engines == 0 && takes_tokens(wanted);
  const dmdkit_backend_vtable& table = able ? wanted : load_backend(kOnnxRuntime, options.backend_directory);
  if (takes_tokens(table)) return table;
  throw Failure(StatusCode::kBackendUnavailable, std::string("the backend ") + table.describe() +
                                                     " takes no token ids; install the libdmdkit_onnxruntime.so of this version");
}

bool is(const dmdkit_backend_tensor& tensor, const char* name, const std::vector<std::int64_t>& shape) {
  return std::strcmp(tensor.name, name) == 0 && tensor.rank == shape.size() &&
         std::memcmp(tensor.shape, shape.data(), shape.size() * sizeof(std::int64_t)) == 0;
}

}  // namespace

TokenSession::TokenSession(const Bundle& bundle, const std::string& name, const Options& options)
    : table_(backend_for(options)), name_(name), backend_(table_.describe()) {
  session_ = open_model_of(table_, bundle, name, options, /*tokens=*/true);
  try {
    check_ports(bundle);
  } catch (...) {
    table_.close(session_);
    throw;
  }
}

TokenSession::~TokenSession() { table_.close(session_); }

void TokenSession::check_ports(const Bundle& bundle) {
  const TextRecord& record = *bundle.manifest().text;
  width_ = bundle.manifest().inputs[0].info.features;
  const std::int64_t length = record.any_length ? -1 : static_cast<std::int64_t>(record.max_tokens);
  bool good = table_.input_count(session_) == 2 && table_.output_count(session_) == 1;
  for (std::size_t input = 0; good && input < 2; ++input) {
    bool found = false;
    for (std::size_t i = 0; i < 2; ++i) {
      dmdkit_backend_tensor tensor{};
      table_.input(session_, i, &tensor);
      if (!is(tensor, kInputs[input], {-1, length})) continue;
      place_[input] = i;
      found = true;
    }
    good = found;
  }
  if (good) {
    dmdkit_backend_tensor tensor{};
    table_.output(session_, 0, &tensor);
    good = is(tensor, "text", {-1, length, static_cast<std::int64_t>(width_)});
  }
  if (!good) {
    throw Failure(StatusCode::kBundleDamaged,
                  name_ + ": takes or gives something else than the manifest says; export the bundle again");
  }
}

void TokenSession::fail(int code, const char* error) const {
  throw Failure(code == DMDKIT_BACKEND_NO_MEMORY ? StatusCode::kOutOfMemory : StatusCode::kBackendFailed, printable(error));
}

void TokenSession::resize(std::size_t batch, std::size_t length) {
  for (auto& tokens : tokens_) tokens.resize(batch * length);
  features_.resize(batch * length * width_);
  batch_ = batch;
  length_ = length;
}

void TokenSession::run() {
  const std::int64_t* inputs[2];
  for (std::size_t input = 0; input < 2; ++input) inputs[place_[input]] = tokens_[input].data();
  char error[kErrorBytes] = "";
  const int code = table_.run_tokens(session_, batch_, length_, inputs, features_.data(), error, sizeof error);
  if (code != DMDKIT_BACKEND_OK) fail(code, error);
}

}  // namespace dmdkit::text
