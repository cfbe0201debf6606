// Streams in the C interface.
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "c_structs.hpp"
#include "dmdkit/dmdkit.h"
#include "dmdkit/stream.hpp"
#include "failure.hpp"

namespace {

using dmdkit::Status;
using dmdkit::StatusCode;
using namespace dmdkit::c;  // NOLINT: the helpers of both files of this interface

Status stream_options_from_c(const dmdkit_stream_options* given, dmdkit::StreamOptions& options) {
  dmdkit_stream_options c;
  dmdkit_stream_options_init(&c);
  if (given != nullptr && !read_versioned(given, c)) return not_initialised("options");
  options.past_limit = text_or(c.past_limit, "stop");
  for (std::size_t i = 0; i < DMDKIT_MODALITIES; ++i) options.missing[i] = text_or(c.missing[i], "error");
  if (c.step_s != 0.0) options.step_s = c.step_s;
  if (!(c.tolerance_s < 0.0)) options.tolerance_s = c.tolerance_s;
  return {};
}

// No allocation: pushes pass through here.
bool steps_from_c(const dmdkit_steps* given, dmdkit::Steps& steps) noexcept {
  dmdkit_steps c;
  dmdkit_steps_init(&c);
  if (!read_versioned(given, c)) return false;
  std::optional<dmdkit::FloatView>* const views[] = {&steps.text, &steps.audio, &steps.vision};
  for (std::size_t i = 0; i < DMDKIT_MODALITIES; ++i) {
    if ((c.missing >> i & 1U) == 0) *views[i] = dmdkit::FloatView(c.data[i], c.values[i]);
    if ((c.timed >> i & 1U) != 0) steps.time_s[i] = c.time_s[i];
  }
  steps.count = c.count;
  return true;
}

}  // namespace

extern "C" {

void dmdkit_stream_options_init(dmdkit_stream_options* options) {
  if (!reset(options)) return;
  options->tolerance_s = -1.0;
}

void dmdkit_steps_init(dmdkit_steps* steps) {
  if (!reset(steps)) return;
  steps->count = 1;
}

void dmdkit_step_answer_init(dmdkit_step_answer* answer) { reset(answer); }

dmdkit_status dmdkit_stream_open(dmdkit_runtime* runtime, const dmdkit_stream_options* options, dmdkit_stream** stream) {
  if (stream == nullptr) return null_pointer("stream");
  *stream = nullptr;
  if (runtime == nullptr) return null_pointer("runtime");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    dmdkit::StreamOptions converted;
    Status status = stream_options_from_c(options, converted);
    if (!status.ok()) return status;
    dmdkit::Result<dmdkit::Stream> opened = runtime->runtime.stream(converted);
    if (!opened) return opened.status();
    *stream = new dmdkit_stream{std::move(opened).value()};
    return {};
  }));
}

void dmdkit_stream_close(dmdkit_stream* stream) { delete stream; }

size_t dmdkit_stream_limit(const dmdkit_stream* stream) { return stream != nullptr ? stream->stream.limit() : 0; }
const char* dmdkit_stream_note(const dmdkit_stream* stream) { return stream != nullptr ? stream->stream.note().c_str() : ""; }

dmdkit_status dmdkit_stream_push(dmdkit_stream* stream, const dmdkit_steps* steps, dmdkit_step_answer* given) {
  if (stream == nullptr || steps == nullptr) return null_pointer(stream == nullptr ? "stream" : "steps");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    dmdkit::Steps converted;
    if (!steps_from_c(steps, converted)) return not_initialised("steps");
    dmdkit_step_answer c;
    dmdkit_step_answer_init(&c);
    if (given != nullptr && !read_versioned(given, c)) return not_initialised("answer");
    for (const auto& [data, count] :
         {std::pair{c.score, c.score_count}, {c.logit_hetero, c.logit_hetero_count}, {c.edges_hetero, c.edges_hetero_count}}) {
      if (data != nullptr && count == 0) return {StatusCode::kInvalidInput, "a buffer of the answer has room for 0 values"};
    }
    const auto view = [](float* data, std::size_t count) {
      return dmdkit::MutableFloatView(data, data != nullptr ? count : 0);
    };
    const auto result = stream->stream.push_into(
        converted,
        {view(c.score, c.score_count), view(c.logit_hetero, c.logit_hetero_count), view(c.edges_hetero, c.edges_hetero_count)});
    if (!result) return result.status();
    if (given == nullptr) return {};
    c.count = result->count;
    c.steps = result->steps;
    c.heard = result->heard;
    for (std::size_t i = 0; i < DMDKIT_MODALITIES; ++i) c.filled[i] = static_cast<int>(result->filled[i]);
    c.latency_ms = result->latency_ms;
    for (std::size_t i = 0; i < DMDKIT_MODALITIES; ++i) c.out_of_range[i] = result->out_of_range[i];
    return write_versioned(c, given) ? Status() : not_initialised("answer");
  }));
}

dmdkit_status dmdkit_stream_reset(dmdkit_stream* stream) {
  return stream != nullptr ? answer(stream->stream.reset()) : null_pointer("stream");
}

dmdkit_status dmdkit_stream_snapshot(const dmdkit_stream* stream, void* bytes, size_t* size) {
  if (stream == nullptr || size == nullptr) return null_pointer(stream == nullptr ? "stream" : "size");
  return answer(dmdkit::guarded<Status>([&]() -> Status {
    const auto snapshot = stream->stream.snapshot();
    if (!snapshot) return snapshot.status();
    const std::size_t room = *size;
    *size = snapshot->size();
    if (bytes == nullptr) return {};
    if (room < snapshot->size()) {
      return {StatusCode::kInvalidInput, "the snapshot takes " + std::to_string(snapshot->size()) +
                                             " bytes, and there is room for " + std::to_string(room)};
    }
    std::memcpy(bytes, snapshot->data(), snapshot->size());
    return {};
  }));
}

dmdkit_status dmdkit_stream_restore(dmdkit_stream* stream, const void* bytes, size_t size) {
  if (stream == nullptr) return null_pointer("stream");
  return answer(stream->stream.restore({static_cast<const std::uint8_t*>(bytes), size}));
}

}  // extern "C"
