// Bundles made to do harm: each is refused with a status, within bounded memory and time.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

class HostileBundleTest : public BundleTest {
 protected:
  void expect_damaged(const std::string& what) {
    const Status status = open_status();
    EXPECT_EQ(status.code(), StatusCode::kBundleDamaged) << what << ": " << status.message();
    for (const char c : status.message()) EXPECT_GE(static_cast<unsigned char>(c), 0x20U) << what;
  }
};

TEST_F(HostileBundleTest, RefusesWhatIsNotStrictJson) {
  const std::string deep(100000, '[');
  for (const std::string& text : std::vector<std::string>{
           "", "{", "nul", deep, "{\"a\":" + deep, "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":1e999}", "{\"a\":1,\"a\":2}",
           "\xEF\xBB\xBF{}", "{\"a\":\"\xFF\"}", "{\"a\":1}x", std::string("{\"a\":1}\0", 8)}) {
    write_manifest_text(text);
    expect_damaged(text.substr(0, 20));
  }
}

TEST_F(HostileBundleTest, RefusesAManifestOfTooManyValues) {
  std::string text = "{\"a\":[1";
  for (int i = 0; i < (1 << 20); ++i) text += ",1";
  write_manifest_text(text + "]}");
  expect_damaged("many values");
}

TEST_F(HostileBundleTest, RefusesAManifestLargerThanSixteenMebibytes) {
  write_manifest_text(std::string((16U << 20U) + 1, ' '));
  expect_damaged("large");
}

TEST_F(HostileBundleTest, RefusesADuplicateKeyAnywhere) {
  std::string text = manifest.dump();
  text.insert(text.find("\"steps\""), "\"steps\":3,");
  write_manifest_text(text);
  expect_damaged("duplicate");
}

TEST_F(HostileBundleTest, RefusesNamesThatLeaveTheBundle) {
  for (const char* name : {"../secret", "/etc/passwd", "graphs/../../x", "a/./b", "a\nb", "\x1B[2J"}) {
    nlohmann::json changed = manifest;
    changed["files"][name] = changed["files"]["graphs/fusion.fp32.onnx"];
    write_manifest_text(changed.dump());
    expect_damaged(name);
  }
}

TEST_F(HostileBundleTest, RefusesHugeNumbers) {
  for (const nlohmann::json& value :
       std::vector<nlohmann::json>{0, -1, 1.5, "3", nullptr, 18446744073709551615ULL, 1e300, 4294967296}) {
    nlohmann::json changed = manifest;
    changed["inputs"]["text"]["steps"] = value;
    write_manifest_text(changed.dump());
    expect_damaged(value.dump());
  }
}

TEST_F(HostileBundleTest, RefusesSizesTheGraphDoesNotHave) {
  manifest["inputs"]["text"]["steps"] = 1 << 20;
  write();
  expect_damaged("other sizes");
}

TEST_F(HostileBundleTest, RefusesEveryTypeInEveryPlace) {
  // Each leaf of the manifest replaced by each kind of value: never a crash, and never success for a container.
  const nlohmann::json flat = manifest.flatten();
  for (const auto& item : flat.items()) {
    for (const nlohmann::json& value :
         std::vector<nlohmann::json>{nlohmann::json::object(), {{{"x", 1}}}, true, -5, 1e308, "\n"}) {
      nlohmann::json changed = manifest;
      changed[nlohmann::json::json_pointer(item.key())] = value;
      write_manifest_text(changed.dump());
      const Status status = open_status();
      if (value.is_object() && !value.empty()) {
        EXPECT_FALSE(status.ok()) << item.key();
      }
      EXPECT_NE(status.code(), StatusCode::kInternal) << item.key() << ": " << status.message();
    }
  }
}

TEST_F(HostileBundleTest, NamesAFileThatWasTruncated) {
  std::filesystem::resize_file(folder + "/graphs/fusion.fp32.onnx", 10);
  expect_damaged("truncated");
  EXPECT_NE(open_status().message().find("graphs/fusion.fp32.onnx has 10 bytes, the manifest says "), std::string::npos);
}

TEST_F(HostileBundleTest, NamesAFileThatIsMissing) {
  std::filesystem::remove(folder + "/golden/golden.safetensors");
  expect_damaged("missing");
}

TEST_F(HostileBundleTest, NoticesOneChangedByte) {
  std::string changed = fusion_text;
  changed[5] ^= 1;
  write_file("graphs/fusion.int8-cpu.onnx", changed);
  expect_damaged("edited");
  EXPECT_NE(open_status().message().find("its SHA-256 differs"), std::string::npos);
}

TEST_F(HostileBundleTest, RefusesAGraphWithWeightsInAnotherFile) {
  fusion_text += " x=location";
  write();
  expect_damaged("reads weights from a file outside itself");
}

TEST_F(HostileBundleTest, DoesNotWaitForAPipe) {
  std::filesystem::remove(folder + "/manifest.json");
  ASSERT_EQ(::mkfifo((folder + "/manifest.json").c_str(), 0600), 0);
  EXPECT_EQ(open_status().code(), StatusCode::kFileUnreadable);
}

TEST_F(HostileBundleTest, RefusesGoldenSamplesThatAreDamaged) {
  golden["surprise"] = Tensor{{1}, {0.0F}};
  write();
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok());
  EXPECT_EQ(runtime->self_check().code(), StatusCode::kBundleDamaged);
}

TEST_F(HostileBundleTest, RefusesAGraphWithOutputsThatNobodyCouldHold) {
  const std::string whole = fusion_text;
  // Each alone is below the limit; together they would take 32 GiB before the first prediction.
  std::string giants;
  for (int i = 0; i < 32; ++i) giants += " extra" + std::to_string(i) + "=16384x16384";
  fusion_text.insert(fusion_text.find(" |"), giants);
  write();
  expect_damaged("giants");
}

TEST_F(HostileBundleTest, RefusesAGraphOfAFixedBatch) {
  fusion_text += " fixed_batch";
  write();
  expect_damaged("fixed batch");
}

TEST_F(HostileBundleTest, RefusesAFileThatGrewAfterItWasOpened) {
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok());
  std::filesystem::resize_file(folder + "/graphs/explain.int8-cpu.onnx", std::uintmax_t{1} << 40);  // no byte of it on the disk
  const Status status = runtime->explain(inputs()).status();
  EXPECT_EQ(status.code(), StatusCode::kBundleDamaged) << status.message();
  EXPECT_NE(status.message().find("its SHA-256 differs"), std::string::npos) << status.message();
}

TEST_F(HostileBundleTest, RefusesGoldenSamplesThatAreIncomplete) {
  const Tensors whole = golden;
  const auto refused = [&](const char* words) {
    write();
    auto runtime = Runtime::open(folder, options());
    const std::string message = runtime ? runtime->self_check().status().message() : runtime.status().message();
    EXPECT_NE(message.find(words), std::string::npos) << message;
    golden = whole;
  };
  golden.erase("reference/score");
  refused("reference/score is missing");
  for (const char* output : {"score", "logit_homo", "logit_hetero", "edges_homo", "edges_hetero"}) {
    golden.erase(std::string("recorded/explain.fp32/") + output);
  }
  refused("nothing is recorded of explain.fp32");
  golden["recorded/fusion.fp32/score"] = Tensor{{1, 1}, {0.0F}};
  refused("expected finite values of 2 samples");
  golden["recorded/fusion.fp32/score"].values[1] = std::numeric_limits<float>::quiet_NaN();
  refused("expected finite values of 2 samples");
  golden.erase("input/vision");
  refused("input/vision is missing");
  for (const char* name : {"text", "audio", "vision"}) {  // all agree with each other, not with the manifest
    Tensor& input = golden[std::string("input/") + name];
    input.shape[0] = 1;
    input.values.resize(input.values.size() / 2);
  }
  refused("expected finite values of 2 samples");
}

TEST_F(HostileBundleTest, RefusesGoldenInputsOfOtherSizes) {
  golden["input/text"] = Tensor{{2, 3, 3}, std::vector<float>(18)};
  write();
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok());
  EXPECT_EQ(runtime->self_check().code(), StatusCode::kBundleDamaged);
}

}  // namespace
}  // namespace dmdkit
