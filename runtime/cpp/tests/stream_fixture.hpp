// The small bundle of bundle_fixture.hpp with a step graph: 7 steps, a kernel of 3, so 5 projected steps and 2 unanswered.
#ifndef DMDKIT_TESTS_STREAM_FIXTURE_HPP_
#define DMDKIT_TESTS_STREAM_FIXTURE_HPP_

#include <string>
#include <vector>

#include "bundle_fixture.hpp"
#include "dmdkit/stream.hpp"
#include "sha256.hpp"

namespace dmdkit {

class StreamTest : public BundleTest {
 protected:
  static constexpr std::size_t kWindow = 7, kKernel = 3, kCapacity = 5, kWidths = 4 + 2 + 3;

  void SetUp() override {
    BundleTest::SetUp();
    for (const char* name : {"text", "audio", "vision"}) manifest["inputs"][name]["steps"] = kWindow;
    manifest["model"]["lengths"] = {{"text", kWindow}, {"audio", kWindow}, {"vision", kWindow}};
    manifest["model"]["kernels"] = {{"text", kKernel}, {"audio", kKernel}, {"vision", kKernel}};
    std::size_t width = 4;
    for (const char* name : {"text", "audio", "vision"}) {
      golden[std::string("input/") + name] = {{2, kWindow, width}, std::vector<float>(2 * kWindow * width)};
      width = width == 4 ? 2 : 3;
    }
    fusion_text = "fake score=1 | text=7x4 audio=7x2 vision=7x3";
    manifest["schema_minor"] = 2;
    manifest["stream"] = {{"kernel", kKernel},
                          {"capacity", kCapacity},
                          {"state", {state_record("keys_1", 2, 2), state_record("values_1", 2, 2)}},
                          {"graphs", {{"fp32", step_record("fp32")}}}};
    write_stream();
  }

  static nlohmann::json state_record(const std::string& name, const nlohmann::json& heads, const nlohmann::json& width) {
    return {{"name", name}, {"heads", heads}, {"width", width}};
  }

  nlohmann::json step_record(const std::string& precision) const {
    nlohmann::json record = manifest["graphs"]["fusion." + precision];
    record["kind"] = "stream";
    record["file"] = "graphs/stream." + precision + ".onnx";
    return record;
  }

  // As write(), with the step graph as it now stands in `step_text`.
  void write_stream() {
    write();
    for (const auto& entry : manifest["stream"]["graphs"].items()) {
      const std::string file = entry.value()["file"];
      write_file(file, step_text);
      Sha256 hash;
      hash.update(step_text.data(), step_text.size());
      manifest["files"][file] = {{"sha256", hash.hex_digest()}, {"size_bytes", step_text.size()}};
    }
    write_manifest_text(manifest.dump());
  }

  Result<Stream> open_stream(StreamOptions with = {}) const {
    auto runtime = Runtime::open(folder, options());
    return runtime ? runtime->stream(with) : Result<Stream>(runtime.status());
  }

  static StreamOptions going_on() {
    StreamOptions with;
    with.past_limit = "window";
    return with;
  }

  // Steps first .. first + count - 1, every value of step n being n + 1.
  Steps steps(std::size_t first, std::size_t count = 1) {
    text.clear(), audio.clear(), vision.clear();
    for (std::size_t step = first; step < first + count; ++step) {
      const auto value = static_cast<float>(step + 1);
      text.insert(text.end(), 4, value);
      audio.insert(audio.end(), 2, value);
      vision.insert(vision.end(), 3, value);
    }
    return {text, audio, vision, count};
  }

  // What the fake step graph answers at step `last`, when the state holds `held` steps, it included.
  static float expected(std::size_t last, std::size_t held) {
    std::size_t sum = 0;
    for (std::size_t end = last + kKernel - held; end <= last; ++end) sum += (end + 1) + end + (end - 1);
    return static_cast<float>(sum * kWidths);
  }

  std::string step_text =
      "fake score=1 logit_hetero=3x1 edges_hetero=6 new_keys_1=2x2xm new_values_1=2x2xm | text=4 audio=2 vision=3 "
      "recent_text:=2x4 recent_audio:=2x2 recent_vision:=2x3 steps:=1 keys_1:=2x2x5 values_1:=2x2x5";
};

}  // namespace dmdkit

#endif  // DMDKIT_TESTS_STREAM_FIXTURE_HPP_
