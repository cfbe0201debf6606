#include "bundle_fixture.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "sha256.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

const std::string kZeroHash(64, '0');
constexpr char kInputs[] = " | text=3x4 audio=3x2 vision=3x3";

Json graph_record(const std::string& kind, const std::string& precision) {
  return {{"kind", kind},
          {"precision", precision},
          {"file", "graphs/" + kind + "." + precision + ".onnx"},
          {"opset", 20},
          {"ir_version", 10},
          {"session_options", {{"session.disable_quant_qdq", "1"}}},
          {"simulated_on_cpu", false},
          {"weight_bytes", 4},
          {"weights_stored_int8", 0.5},
          {"multiply_adds", 10},
          {"multiply_adds_int8", 0.0},
          {"verdict", {{"status", "passed"}, {"reason", "within every limit"}, {"samples", 60}, {"data_sha256", kZeroHash}}}};
}

Json input_record(std::size_t features, bool absent) {
  return {{"steps", 3},
          {"features", features},
          {"dtype", "float32"},
          {"padding_side", "left"},
          {"normalisation", "none"},
          {"trained_absent", absent},
          {"minimum", std::vector<double>(features, -1.0)},
          {"maximum", std::vector<double>(features, 1.0)},
          {"provenance", Json::object()}};
}

Json sizes(int text, int audio, int vision) { return {{"text", text}, {"audio", audio}, {"vision", vision}}; }

Json fresh_manifest() {
  const std::string names[] = {"text", "vision", "audio"};
  Json edges = Json::array();
  for (const std::string& student : names) {
    for (const std::string& teacher : names) {
      if (student != teacher) edges.push_back({student, teacher});
    }
  }
  Json graphs = Json::object();
  for (const char* kind : {"fusion", "explain"}) {
    for (const char* precision : {"fp32", "int8-cpu"})
      graphs[std::string(kind) + "." + precision] = graph_record(kind, precision);
  }
  return {{"schema_version", 1},
          {"name", "fake"},
          {"created", "2026-01-01T00:00:00+00:00"},
          {"tools", {{"dmdkit", "0.1.0"}}},
          {"source",
           {{"run", "run"}, {"origin", "train"}, {"model_sha256", kZeroHash}, {"data_sha256", nullptr}, {"created", "2026"}}},
          {"model",
           {{"feature_dims", sizes(4, 2, 3)},
            {"lengths", sizes(3, 3, 3)},
            {"kernels", sizes(1, 1, 1)},
            {"width", 8},
            {"heads", 2},
            {"levels", 1},
            {"num_outputs", 1},
            {"gd_homo_width", 64},
            {"gd_hetero_width", 32}}},
          {"task", "regression"},
          {"label_range", {-3.0, 3.0}},
          {"output_sd", 1.0},
          {"modality_order", names},
          {"edge_order", edges},
          {"inputs", {{"text", input_record(4, false)}, {"audio", input_record(2, true)}, {"vision", input_record(3, true)}}},
          {"outputs", {{"score", {{"meaning", "value"}, {"shape", {"batch", 1}}, {"order", nullptr}, {"range", {-3.0, 3.0}}}}}},
          {"graphs", graphs},
          {"calibration", nullptr},
          {"golden", {{"file", "golden/golden.safetensors"}, {"kind", "synthetic"}, {"samples", 2}, {"ids", {"a", "b"}}}},
          {"files", Json::object()}};
}

Json tokenizer() {
  return {{"version", "1.0"},
          {"added_tokens", Json::array()},
          {"normalizer",
           {{"type", "BertNormalizer"},
            {"clean_text", true},
            {"handle_chinese_chars", true},
            {"strip_accents", nullptr},
            {"lowercase", true}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor", {{"type", "BertProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", "[UNK]"},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100},
            {"vocab", {{"[PAD]", 0}, {"[UNK]", 1}, {"[CLS]", 2}, {"[SEP]", 3}, {"good", 10}, {"##ly", 20}}}}}};
}

Tensor constant(std::vector<std::size_t> shape, std::vector<float> values) { return {std::move(shape), std::move(values)}; }

}  // namespace

void BundleTest::SetUp() {
  std::string pattern = (std::filesystem::temp_directory_path() / "dmdkit-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  folder = pattern;
  manifest = fresh_manifest();
  fusion_text = std::string("fake score=1") + kInputs;
  explain_text = std::string("fake score=1 logit_homo=3x1 logit_hetero=3x1 edges_homo=6 edges_hetero=6") + kInputs;
  // Zeros everywhere: the fake's answer is its output index.
  golden["input/text"] = constant({2, 3, 4}, std::vector<float>(24));
  golden["input/audio"] = constant({2, 3, 2}, std::vector<float>(12));
  golden["input/vision"] = constant({2, 3, 3}, std::vector<float>(18));
  golden["reference/score"] = constant({2, 1}, {0.0F, 0.0F});
  for (const char* graph : {"fusion.fp32", "fusion.int8-cpu", "explain.fp32", "explain.int8-cpu"}) {
    golden[std::string("recorded/") + graph + "/score"] = constant({2, 1}, {0.0F, 0.0F});
  }
  for (const char* graph : {"explain.fp32", "explain.int8-cpu"}) {
    for (const char* output : {"/logit_homo", "/logit_hetero"}) {
      golden[std::string("recorded/") + graph + output] = constant({2, 3, 1}, {0, 1, 2, 0, 1, 2});
    }
    for (const char* output : {"/edges_homo", "/edges_hetero"}) {
      golden[std::string("recorded/") + graph + output] = constant({2, 6}, {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5});
    }
  }
  text.assign(kTextSize, 0.3F);
  audio.assign(kAudioSize, 0.3F);
  vision.assign(kVisionSize, 0.3F);
  write();
}

void BundleTest::TearDown() {
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
}

void BundleTest::write_file(const std::string& name, const std::string& content) {
  const std::filesystem::path path = std::filesystem::path(folder) / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

void BundleTest::add_file(const std::string& name, const std::string& content) {
  write_file(name, content);
  Sha256 hash;
  hash.update(content.data(), content.size());
  manifest["files"][name] = {{"sha256", hash.hex_digest()}, {"size_bytes", content.size()}};
  write_manifest_text(manifest.dump());
}

void BundleTest::add_text_encoder() {
  manifest["text"] = {{"tokenizer", "tokenizer.json"}, {"max_tokens", 3},        {"vocabulary_size", 100},
                      {"pad_id", 0},                   {"padding_side", "left"}, {"padded_steps", "zero"},
                      {"lengths", "dynamic"},          {"fine_tuned", true},     {"encoder_sha256", kZeroHash}};
  manifest["graphs"]["text.fp32"] = manifest["graphs"]["fusion.fp32"];
  manifest["graphs"]["text.fp32"]["kind"] = "text";
  manifest["graphs"]["text.fp32"]["file"] = "graphs/text.fp32.onnx";
  add_file("graphs/text.fp32.onnx", "fake text=nx4 | input_ids=n attention_mask=n");
  add_file("tokenizer.json", tokenizer().dump());
}

void BundleTest::write() {
  manifest["files"] = Json::object();
  const auto add = [&](const std::string& name, const std::string& content) {
    write_file(name, content);
    Sha256 hash;
    hash.update(content.data(), content.size());
    manifest["files"][name] = {{"sha256", hash.hex_digest()}, {"size_bytes", content.size()}};
  };
  for (const char* precision : {"fp32", "int8-cpu"}) {
    add(std::string("graphs/fusion.") + precision + ".onnx", fusion_text);
    add(std::string("graphs/explain.") + precision + ".onnx", explain_text);
  }
  const std::vector<unsigned char> bytes = safetensors_bytes(golden);
  add("golden/golden.safetensors", std::string(bytes.begin(), bytes.end()));
  write_manifest_text(manifest.dump());
}

Options BundleTest::options() const {
  Options options;
  options.backend = "fake";
  options.backend_directory = DMDKIT_TEST_BACKENDS;
  return options;
}

Status BundleTest::open_status(Options options) const { return Runtime::open(folder, options).status(); }

Inputs BundleTest::inputs(std::size_t batch) {
  text.resize(batch * kTextSize, 0.3F);
  audio.resize(batch * kAudioSize, 0.3F);
  vision.resize(batch * kVisionSize, 0.3F);
  return {text, audio, vision, batch};
}

}  // namespace dmdkit
