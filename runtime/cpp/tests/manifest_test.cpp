#include "manifest.hpp"

#include <algorithm>
#include <map>
#include <string>

#include "bundle.hpp"
#include "bundle_fixture.hpp"
#include "dmdkit/version.h"
#include "failure.hpp"

namespace dmdkit {
namespace {

class ManifestTest : public BundleTest {
 protected:
  std::string message() const {
    const Status status = open_status();
    EXPECT_FALSE(status.ok());
    return status.message();
  }
  void rewrite() { write_manifest_text(manifest.dump()); }
};

TEST_F(ManifestTest, GivesWhatTheRuntimeUses) {
  const Manifest found = read_manifest(folder);
  EXPECT_EQ(found.name, "fake");
  EXPECT_EQ(found.inputs[1].info.features, 2U);
  EXPECT_TRUE(found.inputs[1].info.may_be_absent);
  EXPECT_EQ(found.modality_order[1], "vision");
  EXPECT_EQ(found.edge_order[0], "text<-vision");
  EXPECT_EQ(found.golden_samples, 2U);
  EXPECT_EQ(found.find_graph("fusion.fp32")->session_options.at("session.disable_quant_qdq"), "1");
}

TEST_F(ManifestTest, RefusesEveryKeyItReadsThatIsMissing) {
  for (const char* key : {"schema_version", "name", "model", "output_sd", "modality_order", "edge_order", "inputs", "graphs",
                          "golden", "files", "task", "label_range", "outputs"}) {
    nlohmann::json without = manifest;
    without.erase(key);
    write_manifest_text(without.dump());
    EXPECT_FALSE(open_status().ok()) << key;
  }
}

TEST_F(ManifestTest, LeavesAloneWhatItDoesNotRead) {
  for (const char* key : {"created", "tools", "source", "calibration"}) manifest[key] = 7;
  manifest["inputs"]["text"]["hop"] = 1;
  manifest["graphs"]["fusion.fp32"]["verdict"]["reason"] = nullptr;
  rewrite();
  EXPECT_TRUE(open_status().ok()) << open_status().message();
}

TEST_F(ManifestTest, ReadsTodaysManifestAndTheNextMinorOne) {
  for (const int minor : {0, DMDKIT_MANIFEST_SCHEMA_MINOR, DMDKIT_MANIFEST_SCHEMA_MINOR + 1}) {
    manifest["schema_minor"] = minor;
    rewrite();
    const auto runtime = Runtime::open(folder, options());
    ASSERT_TRUE(runtime.ok()) << runtime.status().message();
    EXPECT_EQ(runtime->notes().size(), minor > DMDKIT_MANIFEST_SCHEMA_MINOR ? 1U : 0U);
  }
  manifest["schema_minor"] = -1;
  rewrite();
  EXPECT_NE(message().find("schema_minor"), std::string::npos);
}

TEST_F(ManifestTest, OfALaterMinorVersionLeavesOutGraphsOfAnUnknownPrecision) {
  manifest["graphs"]["fusion.fp4"] = manifest["graphs"]["fusion.fp32"];
  manifest["graphs"]["fusion.fp4"]["precision"] = "fp4";
  rewrite();
  EXPECT_NE(message().find("unknown kind or precision 'fusion.fp4'"), std::string::npos) << message();
  manifest["schema_minor"] = DMDKIT_MANIFEST_SCHEMA_MINOR + 1;
  rewrite();
  EXPECT_TRUE(open_status().ok()) << open_status().message();
  EXPECT_EQ(read_manifest(folder).find_graph("fusion.fp4"), nullptr);
}

TEST_F(ManifestTest, RefusesWhatItRequiresAndNamesTheVersion) {
  manifest["requires"] = nlohmann::json::array();
  rewrite();
  EXPECT_TRUE(open_status().ok()) << open_status().message();
  manifest["requires"].push_back({{"name", "streams"}, {"since", "0.3.0"}});
  rewrite();
  EXPECT_EQ(open_status().code(), StatusCode::kBundleVersion);
  EXPECT_EQ(message(),
            folder + "/manifest.json: it requires 'streams', which this dmdkit does not know; use dmdkit 0.3.0 or newer");
  manifest["requires"] = "streams";
  rewrite();
  EXPECT_NE(message().find("requires: expected a list"), std::string::npos) << message();
}

TEST_F(ManifestTest, RefusesASessionOptionThatLoadsSomething) {
  manifest["graphs"]["fusion.fp32"]["session_options"] = {{"session.model_external_initializers_file_folder_path", "/etc"}};
  rewrite();
  EXPECT_NE(message().find("unknown option 'session.model_external_initializers_file_folder_path'"), std::string::npos)
      << message();
}

TEST_F(ManifestTest, RefusesAnotherVersionAsPythonDoes) {
  manifest["schema_version"] = 2;
  rewrite();
  EXPECT_EQ(open_status().code(), StatusCode::kBundleVersion);
  EXPECT_EQ(message(),
            folder +
                "/manifest.json: schema version 2, this dmdkit reads version 1; use the dmdkit that wrote the bundle, or "
                "export it again");
}

TEST_F(ManifestTest, NamesTheColumnCountThatDoesNotFit) {
  manifest["inputs"]["text"]["minimum"] = {1.0};
  rewrite();
  EXPECT_NE(message().find("minimum has 1 values for 4 features"), std::string::npos);
}

TEST_F(ManifestTest, RefusesOutputsInAnotherOrderThanTheGraphs) {
  const nlohmann::json sound = manifest;
  for (const char* key : {"modality_order", "edge_order"}) {
    manifest = sound;
    std::reverse(manifest[key].begin(), manifest[key].end());
    rewrite();
    EXPECT_NE(message().find("is not text, vision, audio, the order of the graphs' outputs"), std::string::npos) << message();
  }
}

TEST_F(ManifestTest, RefusesAGraphUnderAnotherName) {
  manifest["graphs"]["fusion.fp16"] = manifest["graphs"]["fusion.fp32"];
  rewrite();
  EXPECT_NE(message().find("describes fusion.fp32"), std::string::npos);
}

TEST_F(ManifestTest, RefusesAFileThatIsNotListed) {
  manifest["graphs"]["fusion.fp32"]["file"] = "graphs/other.onnx";
  rewrite();
  EXPECT_NE(message().find("is not listed under files"), std::string::npos);
}

TEST_F(ManifestTest, TakesABundleWithATextEncoder) {
  golden["recorded/text.fp32/text"] = Tensor{{2, 3, 4}, std::vector<float>(24)};
  write();
  manifest["text"] = {{"tokenizer", "graphs/fusion.fp32.onnx"},
                      {"max_tokens", 3},
                      {"vocabulary_size", 100},
                      {"pad_id", 0},
                      {"padding_side", "left"},
                      {"padded_steps", "zero"},
                      {"fine_tuned", true},
                      {"encoder_sha256", std::string(64, '0')}};
  manifest["graphs"]["text.fp32"] = manifest["graphs"]["fusion.fp32"];
  manifest["graphs"]["text.fp32"]["kind"] = "text";
  rewrite();
  const auto read = read_manifest(folder);
  ASSERT_TRUE(read.text);
  EXPECT_EQ(read.text->max_tokens, 3U);
  EXPECT_FALSE(read.text->any_length);
  ASSERT_TRUE(open_status().ok());
  auto runtime = Runtime::open(folder, options());  // its features are the input; nothing opens its text graph
  EXPECT_TRUE(runtime->predict(inputs(1)));
  EXPECT_EQ(runtime->text_graph(), "");
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{
           {"max_tokens", 4}, {"pad_id", 100}, {"tokenizer", "other.json"}, {"padding_side", "none"}, {"lengths", "some"}}) {
    const nlohmann::json sound = manifest["text"][key];
    manifest["text"][key] = value;
    rewrite();
    EXPECT_NE(message().find("text"), std::string::npos) << key;
    manifest["text"][key] = sound;
    if (sound.is_null()) manifest["text"].erase(key);
  }
}

TEST_F(ManifestTest, ChoosesOnlyWhatPassed) {
  const auto chosen = [&](const std::string& wanted) {
    rewrite();
    Options with = options();
    with.graph = wanted;
    const auto runtime = Runtime::open(folder, with);
    return runtime ? runtime->graph() : runtime.status().message();
  };
  EXPECT_EQ(chosen(""), "fusion.int8-cpu");
  manifest["graphs"]["fusion.int8-cpu"]["verdict"]["status"] = "failed";
  EXPECT_EQ(chosen(""), "fusion.fp32");
  manifest["graphs"]["fusion.fp32"]["verdict"]["status"] = "unverified";
  EXPECT_EQ(chosen(""),
            "no fusion graph of this bundle has passed parity (fusion.fp32 unverified, fusion.int8-cpu failed); prove one with "
            "`dmdkit check`, or name one yourself (graph='fp32')");
  EXPECT_EQ(chosen("int8-cpu"), "fusion.int8-cpu");
  EXPECT_EQ(chosen("fusion.fp32"), "fusion.fp32");
  EXPECT_EQ(chosen("fp16"), "no fusion graph 'fp16'; the bundle has fusion.fp32, fusion.int8-cpu");
  EXPECT_EQ(chosen("explain.fp32"), "no fusion graph 'explain.fp32'; the bundle has fusion.fp32, fusion.int8-cpu");
}

TEST(SafePathTest, AdmitsOnlyPlainRelativePaths) {
  for (const char* good : {"a", "graphs/fusion.int8-cpu.onnx", "_a/b-c.d"}) EXPECT_TRUE(is_safe_path(good)) << good;
  for (const char* bad : {"", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "-a", "a/.b", "a\\b", "a b", "a\n"}) {
    EXPECT_FALSE(is_safe_path(bad)) << bad;
  }
}

}  // namespace
}  // namespace dmdkit
