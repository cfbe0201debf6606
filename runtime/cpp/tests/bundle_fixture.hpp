// A small bundle for the fake backend, written to a temporary folder and open to being damaged.
#ifndef DMDKIT_TESTS_BUNDLE_FIXTURE_HPP_
#define DMDKIT_TESTS_BUNDLE_FIXTURE_HPP_

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dmdkit/runtime.hpp"
#include "safetensors.hpp"

namespace dmdkit {

class BundleTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kSteps = 3;
  static constexpr std::size_t kTextSize = 12, kAudioSize = 6, kVisionSize = 9;  // 3 steps of 4, 2 and 3 features

  void SetUp() override;
  void TearDown() override;

  // Writes the bundle as it now stands in `manifest`, `graph_text` and `golden`, with honest hashes.
  void write();
  // Gives the written bundle a text encoder that takes any length: of every token, each feature is a hundredth of its id.
  void add_text_encoder();
  // Adds a file with an honest hash.
  void add_file(const std::string& name, const std::string& content);
  void write_file(const std::string& name, const std::string& content);
  void write_manifest_text(const std::string& text) { write_file("manifest.json", text); }

  Options options() const;
  Status open_status(Options options) const;
  Status open_status() const { return open_status(options()); }
  Inputs inputs(std::size_t batch = 1);

  std::string folder;
  nlohmann::json manifest;
  std::string fusion_text;
  std::string explain_text;
  Tensors golden;
  std::vector<float> text, audio, vision;
};

}  // namespace dmdkit

#endif  // DMDKIT_TESTS_BUNDLE_FIXTURE_HPP_
