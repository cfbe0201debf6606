// Sidecars and the choice among engines, through the library and the TensorRT plug-in over its stand-in.
#include "engines.hpp"

#include <filesystem>

#include "bundle_fixture.hpp"
#include "failure.hpp"
#include "sha256.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

class EnginesTest : public BundleTest {
 protected:
  Options options() const {
    Options with = BundleTest::options();
    with.backend = "fake_engines";
    return with;
  }

  static std::string hash_of(const std::string& text) {
    Sha256 hash;
    hash.update(text.data(), text.size());
    return hash.hex_digest();
  }

  // A sidecar as dmdkit.runtime.engines writes it.
  Json sidecar(const std::string& graph, const std::string& plan) const {
    const Json tensor = {{"name", "text"}, {"shape", {-1, 3, 4}}, {"dtype", "FLOAT"}};
    return {{"schema_version", 1},
            {"target", "test"},
            {"graph", graph},
            {"graph_sha256", manifest["files"]["graphs/" + graph + ".onnx"]["sha256"]},
            {"model_sha256", std::string(64, '0')},
            {"flavour", "tensorrt_rtx"},
            {"version", "1.7.1.116"},
            {"compute_capabilities", {"8.9"}},
            {"platform", this_platform()},
            {"gpu", nullptr},
            {"driver", nullptr},
            {"plan", "test." + graph + ".plan"},
            {"plan_sha256", hash_of(plan)},
            {"plan_bytes", plan.size()},
            {"batch", {1, 1, 4}},
            {"flags", {{"workspace", 1}, {"strong", true}, {"note", "x"}}},
            {"inputs", {tensor}},
            {"outputs", {tensor}},
            {"products", {{{"name", "a"}, {"multiply_adds", 5}, {"int8", false}}}},
            {"cache_key", std::string(64, '0')},
            {"built", "2026-01-01T00:00:00+00:00"},
            {"build_seconds", 1.5},
            {"precision",
             {{"layout", "tensorrt-10"},
              {"layers", {{"a", "FP32"}}},
              {"expected_int8", 0.0},
              {"found_int8", 0.0},
              {"status", "passed"},
              {"reason", ""}}},
            {"check", {{"passed", true}, {"samples", 2}, {"max_error", 0.0}, {"tolerance", 1e-4}, {"worst_output", "score"}}},
            {"latency_ms", {{"p50", 1.0}}},
            {"notes", {"built without a GPU"}}};
  }

  void add(const Json& record, const std::string& plan) {
    const std::string name = "engines/" + record["plan"].get<std::string>();
    write_file(name, plan);
    write_file(name.substr(0, name.size() - 4) + "json", record.dump());
  }

  void add_fusion(const std::function<void(Json&)>& edit = [](Json&) {}) {
    Json record = sidecar("fusion.fp32", kFusion);
    edit(record);
    add(record, kFusion);
  }

  std::string message() const { return open_status(options()).message(); }

  const std::string kFusion = "plan score=1 | text=3x4 audio=3x2 vision=3x3";
  const std::string kExplain =
      "plan score=1 logit_homo=3x1 logit_hetero=3x1 edges_homo=6 edges_hetero=6 | text=3x4 audio=3x2 vision=3x3";
};

TEST_F(EnginesTest, AnEngineOfTheBundlePredictsAndExplains) {
  add_fusion();
  add(sidecar("explain.fp32", kExplain), kExplain);
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok()) << runtime.status().message();
  EXPECT_EQ(runtime->graph(), "fusion.fp32");
  EXPECT_EQ(runtime->backend(), "tensorrt_rtx 1.7.1.116 (CUDA graph)");
  for (const std::size_t batch : {1, 3, 9}) {
    const auto out = runtime->predict(inputs(batch));
    ASSERT_TRUE(out.ok()) << out.status().message();
    EXPECT_FLOAT_EQ(out->score[batch - 1], 0.3F);
  }
  const auto why = runtime->explain(inputs());
  ASSERT_TRUE(why.ok()) << why.status().message();
  EXPECT_FLOAT_EQ(why->edges_homo[5], 5.3F);
  const auto check = runtime->self_check(true);
  ASSERT_TRUE(check.ok()) << check.status().message();
  EXPECT_TRUE(check->passed);
  EXPECT_EQ(check->graphs.size(), 2U) << "graphs without an engine are left out";
  EXPECT_DOUBLE_EQ(check->graphs[0].tolerance, 1e-4);
}

TEST_F(EnginesTest, AFusionEngineAloneChecksItself) {
  add_fusion();
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok());
  const auto check = runtime->self_check();
  ASSERT_TRUE(check.ok()) << check.status().message();
  EXPECT_EQ(check->graphs.size(), 1U);
  EXPECT_EQ(runtime->explain(inputs()).status().message(),
            "the bundle has no engine for explain.fp32; make one with `dmdkit build`");
}

TEST_F(EnginesTest, TheReasonForEveryRefusalIsTold) {
  EXPECT_EQ(message(), "the bundle has no engine for fusion.fp32; make one with `dmdkit build`");
  const std::string who = "engine test.fusion.fp32 ";
  add_fusion([](Json& record) { record["graph_sha256"] = std::string(64, '1'); });
  EXPECT_EQ(message(), who + "was built from another fusion.fp32 than this bundle's; build it again");
  add_fusion([](Json& record) {
    record["precision"]["status"] = "failed";
    record["precision"]["reason"] = "half of it is fp32";
  });
  EXPECT_EQ(message(), who + "failed its precision proof: half of it is fp32");
  add_fusion([](Json& record) { record["check"]["passed"] = false; });
  EXPECT_EQ(message(), who + "failed its check on the golden samples (score is off)");
  add_fusion([](Json& record) { record["platform"] = "linux-riscv64"; });
  EXPECT_EQ(message(), who + "is for linux-riscv64, this is " + this_platform() + "; build it here");
  add_fusion([](Json& record) { record["check"] = nullptr; });
  EXPECT_NE(message().find("has not run anywhere yet"), std::string::npos) << message();
  add_fusion([](Json& record) { record["compute_capabilities"] = {"8.7"}; });
  EXPECT_NE(message().find("Test GPU has 8.9; build it for this GPU"), std::string::npos) << message();
  add_fusion();
  Options cpu = options();
  cpu.device = "cpu";
  EXPECT_EQ(open_status(cpu).message(), "device='cpu': the backend 'fake_engines' runs on a GPU; use device='auto'");
  EXPECT_TRUE(open_status(options()).ok());
}

TEST_F(EnginesTest, OneBadEngineDoesNotHideAGoodOne) {
  add_fusion();
  write_file("engines/aaa.json", "{");
  Json other = sidecar("fusion.fp32", kFusion);
  other["plan"] = "bbb.plan";
  other["plan_sha256"] = std::string(64, '0');
  add(other, kFusion);
  EXPECT_TRUE(open_status(options()).ok());
}

TEST_F(EnginesTest, PlansAreReadOnlyWhenTheirHashMatches) {
  add_fusion();
  write_file("engines/test.fusion.fp32.plan", kFusion + " ");
  EXPECT_NE(message().find("damaged (its SHA-256 is not the sidecar's); build it again"), std::string::npos) << message();
  EXPECT_EQ(open_status(options()).code(), StatusCode::kBundleDamaged);
  write_file("engines/test.fusion.fp32.plan", kFusion.substr(1));
  EXPECT_EQ(open_status(options()).code(), StatusCode::kBundleDamaged);
  std::filesystem::remove(folder + "/engines/test.fusion.fp32.plan");
  EXPECT_EQ(open_status(options()).code(), StatusCode::kFileUnreadable);
}

TEST_F(EnginesTest, LinksThatLeaveTheFolderAreRefused) {
  add_fusion();
  for (const char* file : {"/engines/test.fusion.fp32.plan", "/engines/test.fusion.fp32.json"}) {
    std::filesystem::rename(folder + file, folder + "/outside");
    std::filesystem::create_symlink(folder + "/outside", folder + file);
    EXPECT_NE(message().find("a link that leaves it; build the engine again"), std::string::npos) << message();
    std::filesystem::remove(folder + file);
    std::filesystem::rename(folder + "/outside", folder + file);
  }
  EXPECT_TRUE(open_status(options()).ok());
  const std::string outside = folder + "-engines";
  std::filesystem::rename(folder + "/engines", outside);
  std::filesystem::create_directory_symlink(outside, folder + "/engines");
  EXPECT_EQ(message(), folder + "/engines is a link that leaves the bundle; remove it, or copy the folder");
  std::filesystem::remove_all(outside);
}

TEST_F(EnginesTest, AnEngineOfOtherSizesThanTheManifestIsRefused) {
  const std::string plan = "plan score=1 | text=3x5 audio=3x2 vision=3x3";
  add(sidecar("fusion.fp32", plan), plan);
  EXPECT_EQ(open_status(options()).code(), StatusCode::kBundleDamaged);
}

TEST_F(EnginesTest, HostileSidecarsAreRefused) {
  const Json good = sidecar("fusion.fp32", kFusion);
  const auto code = [](const std::string& text) {
    return guarded<Status>([&]() -> Status {
             parse_engine_record(reinterpret_cast<const unsigned char*>(text.data()), text.size(), "sidecar");
             return {};
           })
        .code();
  };
  EXPECT_EQ(code(good.dump()), StatusCode::kOk);
  for (const char* key :
       {"graph", "graph_sha256", "flavour", "version", "compute_capabilities", "platform", "plan", "plan_sha256", "plan_bytes",
        "batch", "flags", "inputs", "outputs", "products", "cache_key", "built", "build_seconds", "target", "model_sha256"}) {
    Json missing = good;
    missing.erase(key);
    EXPECT_EQ(code(missing.dump()), StatusCode::kBundleDamaged) << key;
    Json wrong = good;
    wrong[key] = {{"x", {1, -1e300}}};
    EXPECT_NE(code(wrong.dump()), StatusCode::kInternal) << key;
    if (std::string(key) == "flags") continue;  // any object will do
    EXPECT_EQ(code(wrong.dump()), StatusCode::kBundleDamaged) << key;
  }
  for (const char* plan : {"", "../x.plan", "a/b", ".hidden", "/etc/passwd", "-x", "a\nb"}) {
    Json escape = good;
    escape["plan"] = plan;
    EXPECT_EQ(code(escape.dump()), StatusCode::kBundleDamaged) << plan;
  }
  for (const Json& batch : {Json{0, 1, 1}, Json{2, 1, 4}, Json{1, 1, 1025}, Json{1, 1}, Json{1, 1, -1}, Json{1, 1.5, 2}}) {
    Json wrong = good;
    wrong["batch"] = batch;
    EXPECT_EQ(code(wrong.dump()), StatusCode::kBundleDamaged) << batch;
  }
  Json extra = good;
  extra["run"] = "rm";
  EXPECT_EQ(code(extra.dump()), StatusCode::kBundleDamaged);
  for (const char* text : {"", "[]", "7", "{\"schema_version\": 2}", "{\"schema_version\": \"1\"}"}) {
    EXPECT_NE(code(text), StatusCode::kOk) << text;
  }
  EXPECT_EQ(code(std::string(100000, '[')), StatusCode::kBundleDamaged);
}

}  // namespace
}  // namespace dmdkit
