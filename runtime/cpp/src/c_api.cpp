#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "c_structs.hpp"
#include "dmdkit/dmdkit.h"
#include "dmdkit/runtime.hpp"
#include "failure.hpp"

namespace {

using dmdkit::Status;
using dmdkit::StatusCode;
using namespace dmdkit::c;  // NOLINT: the helpers of both files of this interface

static_assert(static_cast<int>(StatusCode::kOutOfMemory) == DMDKIT_OUT_OF_MEMORY);
static_assert(static_cast<int>(StatusCode::kCallbackFailed) == DMDKIT_CALLBACK_FAILED);
static_assert(static_cast<int>(StatusCode::kInternal) == DMDKIT_INTERNAL);

Status options_from_c(const dmdkit_options* given, dmdkit::Options& options) {
  dmdkit_options c;
  dmdkit_options_init(&c);
  if (given != nullptr && !read_versioned(given, c)) return not_initialised("options");
  options.device = text_or(c.device, "auto");
  options.graph = text_or(c.graph, "");
  options.threads = c.threads;
  options.deadline_us = c.deadline_us;
  options.preload_explain = c.preload_explain != 0;
  if (c.spin >= 0) options.spin = c.spin != 0;
  options.affinity = text_or(c.affinity, "");
  options.backend = text_or(c.backend, "onnxruntime");
  options.backend_directory = text_or(c.backend_directory, "");
  return {};
}

// What a caller of C gave, in the form of C++.
struct Given {
  dmdkit::Inputs inputs;
  std::vector<std::string_view> words;
  std::vector<dmdkit::TokenIds> token_ids;
};

// More sentences than any call has; a larger batch is refused before its pointers are followed.
constexpr std::size_t kMaxSentences = std::size_t{1} << 24;

Status words_from_c(const dmdkit_inputs& c, Given& given) {
  if (c.batch > kMaxSentences) {
    return {StatusCode::kInvalidInput,
            "batch is " + std::to_string(c.batch) + ", expected 1 to " + std::to_string(kMaxSentences)};
  }
  for (std::size_t i = 0; i < c.batch; ++i) {
    if (c.words != nullptr) {
      if (c.words[i] == nullptr) return {StatusCode::kInvalidInput, "sentence " + std::to_string(i) + " is null"};
      given.words.emplace_back(c.words[i], c.word_bytes != nullptr ? c.word_bytes[i] : std::strlen(c.words[i]));
    }
    if (c.token_ids != nullptr) {
      if (c.token_ids[i] == nullptr || c.token_counts == nullptr) {
        return {StatusCode::kInvalidInput, "the token ids of sentence " + std::to_string(i) + ", or their count, are null"};
      }
      given.token_ids.emplace_back(c.token_ids[i], c.token_counts[i]);
    }
  }
  if (c.words != nullptr) given.inputs.words.emplace(given.words);
  if (c.token_ids != nullptr) given.inputs.token_ids.emplace(given.token_ids);
  return {};
}

// Features need no allocation: predictions pass through here.
Status inputs_from_c(const dmdkit_inputs* from, Given& given) {
  dmdkit_inputs c;
  dmdkit_inputs_init(&c);
  if (!read_versioned(from, c)) return not_initialised("inputs");
  dmdkit::Inputs& inputs = given.inputs;
  std::optional<dmdkit::FloatView>* const views[] = {&inputs.text, &inputs.audio, &inputs.vision};
  const bool encoded = c.words != nullptr || c.token_ids != nullptr;
  for (int i = 0; i < DMDKIT_MODALITIES; ++i) {
    if (i == DMDKIT_TEXT && encoded && c.data[i] == nullptr) continue;
    if ((c.absent >> i & 1U) == 0) *views[i] = dmdkit::FloatView(c.data[i], c.count[i]);
  }
  inputs.batch = c.batch;
  return encoded ? words_from_c(c, given) : Status();
}

}  // namespace

extern "C" {

void dmdkit_options_init(dmdkit_options* options) {
  if (!reset(options)) return;
  options->threads = 1;
  options->spin = -1;
}

void dmdkit_inputs_init(dmdkit_inputs* inputs) {
  if (!reset(inputs)) return;
  inputs->batch = 1;
}

void dmdkit_input_info_init(dmdkit_input_info* info) { reset(info); }

void dmdkit_prediction_init(dmdkit_prediction* prediction) { reset(prediction); }

void dmdkit_explanation_init(dmdkit_explanation* explanation) { reset(explanation); }

void dmdkit_stats_init(dmdkit_stats* stats) { reset(stats); }

const char* dmdkit_version(void) { return DMDKIT_VERSION_STRING; }
uint32_t dmdkit_abi_version(void) { return DMDKIT_ABI_VERSION; }

const char* dmdkit_status_message(dmdkit_status status) { return dmdkit::status_code_name(static_cast<StatusCode>(status)); }
const char* dmdkit_last_error(void) { return last_error().c_str(); }

dmdkit_status dmdkit_open(const char* path, const dmdkit_options* options, dmdkit_runtime** runtime) {
  if (runtime == nullptr) return null_pointer("runtime");
  *runtime = nullptr;
  if (path == nullptr) return null_pointer("path");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    dmdkit::Options converted;
    Status status = options_from_c(options, converted);
    if (!status.ok()) return status;
    dmdkit::Result<dmdkit::Runtime> opened = dmdkit::Runtime::open(path, converted);
    if (!opened) return opened.status();
    *runtime = new dmdkit_runtime{std::move(opened).value()};
    return {};
  }));
}

void dmdkit_close(dmdkit_runtime* runtime) { delete runtime; }

dmdkit_status dmdkit_get_input(const dmdkit_runtime* runtime, int modality, dmdkit_input_info* info) {
  if (runtime == nullptr || info == nullptr) return null_pointer(runtime == nullptr ? "runtime" : "info");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    if (modality < 0 || modality >= DMDKIT_MODALITIES) {
      return {StatusCode::kInvalidInput, "modality " + std::to_string(modality) + ": expected 0 to 2"};
    }
    const dmdkit::InputInfo& found = runtime->runtime.inputs()[static_cast<std::size_t>(modality)];
    dmdkit_input_info filled;
    dmdkit_input_info_init(&filled);
    filled.name = found.name.c_str();
    filled.steps = found.steps;
    filled.features = found.features;
    filled.may_be_absent = found.may_be_absent ? 1 : 0;
    return write_versioned(filled, info) ? Status() : not_initialised("info");
  }));
}

size_t dmdkit_output_count(const dmdkit_runtime* runtime) { return runtime != nullptr ? runtime->runtime.outputs() : 0; }
const char* dmdkit_graph(const dmdkit_runtime* runtime) { return runtime != nullptr ? runtime->runtime.graph().c_str() : ""; }
const char* dmdkit_backend(const dmdkit_runtime* runtime) {
  return runtime != nullptr ? runtime->runtime.backend().c_str() : "";
}

const char* dmdkit_text_graph(const dmdkit_runtime* runtime) {
  return runtime != nullptr ? runtime->runtime.text_graph().c_str() : "";
}

const char* dmdkit_text_backend(const dmdkit_runtime* runtime) {
  return runtime != nullptr ? runtime->runtime.text_backend().c_str() : "";
}

dmdkit_status dmdkit_predict(dmdkit_runtime* runtime, const dmdkit_inputs* inputs, float* score, size_t score_count,
                             dmdkit_prediction* prediction) {
  if (runtime == nullptr || inputs == nullptr) return null_pointer(runtime == nullptr ? "runtime" : "inputs");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    Given given;
    Status status = inputs_from_c(inputs, given);
    if (!status.ok()) return status;
    if (!is_versioned(prediction)) return not_initialised("prediction");
    const auto result = runtime->runtime.predict_into(given.inputs, dmdkit::MutableFloatView(score, score_count));
    if (!result) return result.status();
    if (prediction == nullptr) return {};
    dmdkit_prediction filled;
    dmdkit_prediction_init(&filled);
    filled.latency_ms = result->latency_ms;
    filled.deadline_missed = result->deadline_missed ? 1 : 0;
    for (std::size_t i = 0; i < DMDKIT_MODALITIES; ++i) filled.out_of_range[i] = result->out_of_range[i];
    filled.truncated = result->truncated;
    return write_versioned(filled, prediction) ? Status() : not_initialised("prediction");
  }));
}

dmdkit_status dmdkit_explain(dmdkit_runtime* runtime, const dmdkit_inputs* inputs, dmdkit_explanation* explanation) {
  if (runtime == nullptr || inputs == nullptr) return null_pointer(runtime == nullptr ? "runtime" : "inputs");
  if (explanation == nullptr) return null_pointer("explanation");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    Given given;
    Status status = inputs_from_c(inputs, given);
    if (!status.ok()) return status;
    dmdkit_explanation c;
    dmdkit_explanation_init(&c);
    if (!read_versioned(explanation, c)) return not_initialised("explanation");
    // The C++ interface leaves out what is empty; here only a null pointer says that, and a buffer of no values is too small.
    for (const auto& [data, count] : {std::pair{c.score, c.score_count},
                                      {c.logit_homo, c.logit_homo_count},
                                      {c.logit_hetero, c.logit_hetero_count},
                                      {c.edges_homo, c.edges_homo_count},
                                      {c.edges_hetero, c.edges_hetero_count}}) {
      if (data != nullptr && count == 0)
        return {StatusCode::kInvalidInput, "a buffer of the explanation has room for 0 values"};
    }
    const auto view = [](float* data, std::size_t count) {
      return dmdkit::MutableFloatView(data, data != nullptr ? count : 0);
    };
    const auto result = runtime->runtime.explain_into(
        given.inputs,
        {view(c.score, c.score_count), view(c.logit_homo, c.logit_homo_count), view(c.logit_hetero, c.logit_hetero_count),
         view(c.edges_homo, c.edges_homo_count), view(c.edges_hetero, c.edges_hetero_count)});
    if (!result) return result.status();
    c.latency_ms = result->latency_ms;
    return write_versioned(c, explanation) ? Status() : not_initialised("explanation");
  }));
}

dmdkit_status dmdkit_self_check(dmdkit_runtime* runtime, int every_graph, int* passed) {
  if (runtime == nullptr || passed == nullptr) return null_pointer(runtime == nullptr ? "runtime" : "passed");
  *passed = 0;
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    const auto result = runtime->runtime.self_check(every_graph != 0);
    if (!result) return result.status();
    *passed = result->passed ? 1 : 0;
    return {};
  }));
}

dmdkit_status dmdkit_get_stats(const dmdkit_runtime* runtime, dmdkit_stats* stats) {
  if (runtime == nullptr || stats == nullptr) return null_pointer(runtime == nullptr ? "runtime" : "stats");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    const dmdkit::Stats found = runtime->runtime.stats();
    const dmdkit_stats filled{sizeof filled, found.count,           found.p50_ms,       found.p90_ms,   found.p99_ms,
                              found.max_ms,  found.deadline_misses, found.out_of_range, found.truncated};
    return write_versioned(filled, stats) ? Status() : not_initialised("stats");
  }));
}

}  // extern "C"
