// Words and token ids through the runtime, over the fake backend: every feature of a token is a hundredth of its id.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bundle_fixture.hpp"
#include "dmdkit/dmdkit.h"
#include "failure.hpp"
#include "text/rows.hpp"
#include "text/unicode.hpp"
#include "words_file.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

class TextTest : public BundleTest {
 protected:
  void SetUp() override {
    BundleTest::SetUp();
    add_text_encoder();
  }

  Runtime open() {
    auto opened = Runtime::open(folder, options());
    EXPECT_TRUE(opened) << opened.status().message();
    return std::move(opened).value();
  }

  std::string read(const std::string& name) const {
    std::ifstream stream(folder + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

  Inputs of(const std::vector<std::string_view>& words) {
    Inputs given = inputs(words.size());
    given.text.reset();
    given.words.emplace(words);
    return given;
  }

  // What the fake predicts of these rows of token ids: the mean of all inputs.
  static float expected(const std::vector<int>& ids) {
    double sum = 0.3 * (kAudioSize + kVisionSize);
    for (const int id : ids) sum += 4 * 0.01 * id;
    return static_cast<float>(sum / (kTextSize + kAudioSize + kVisionSize));
  }
};

TEST_F(TextTest, WordsAndIdsArePredictedAndExplained) {
  Runtime runtime = open();
  EXPECT_TRUE(runtime.has_text_encoder());
  EXPECT_EQ(runtime.text_graph(), "");
  const std::vector<std::string_view> words = {"Good", "", "goodly", "good good"};
  const auto found = runtime.predict(of(words));
  ASSERT_TRUE(found) << found.status().message();
  EXPECT_EQ(runtime.text_graph(), "text.fp32");
  EXPECT_EQ(runtime.text_backend(), "fake 1");
  EXPECT_EQ(found->truncated, 2U);
  const std::vector<std::vector<int>> ids = {{2, 10, 3}, {2, 3}, {2, 10, 3}, {2, 10, 3}};
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_NEAR(found->score[i], expected(ids[i]), 1e-6) << i;
  const std::vector<std::int64_t> padded = {0, 2, 3, 0};
  const std::vector<TokenIds> rows = {padded};
  Inputs given = inputs(1);
  given.text.reset();
  given.token_ids.emplace(rows);
  const auto by_ids = runtime.explain(given);
  ASSERT_TRUE(by_ids) << by_ids.status().message();
  EXPECT_NEAR(by_ids->score[0], expected({2, 3}), 1e-6);
  EXPECT_EQ(runtime.stats().truncated, 2U);
  runtime.reset_stats();
  EXPECT_EQ(runtime.stats().truncated, 0U);
}

TEST_F(TextTest, BadWordsAreOneClearRefusalEach) {
  Runtime runtime = open();
  const auto refusal = [&](const Inputs& given) {
    const auto found = runtime.predict(given);
    EXPECT_FALSE(found);
    return found.status();
  };
  const std::vector<std::string_view> broken = {"good", "\xC3"};
  EXPECT_EQ(refusal(of(broken)).message(), "sentence 1 cannot be tokenised: it is not UTF-8");
  const std::string large((std::size_t{16} << 20) + 1, 'a');
  EXPECT_EQ(refusal(of({large})).code(), StatusCode::kInvalidInput);
  for (const auto& [ids, message] : std::vector<std::pair<std::vector<std::int64_t>, std::string>>{
           {{2, 100, 3}, "sentence 0 has the token id 100; this encoder's vocabulary ends at 99"},
           {{2, -7, 3}, "sentence 0 has the token id -7; this encoder's vocabulary ends at 99"},
           {{2, 10, 10, 3}, "sentence 0 has 4 tokens, expected 1 to 3; cut it, or pass it as a string"},
           {{0, 0}, "sentence 0 has 0 tokens, expected 1 to 3; cut it, or pass it as a string"}}) {
    Inputs given = inputs(1);
    given.text.reset();
    const std::vector<TokenIds> rows = {ids};
    given.token_ids.emplace(rows);
    const Status status = refusal(given);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_EQ(status.message(), message);
  }
  const std::vector<std::string_view> two = {"good", "good"};
  Inputs given = of(two);
  given.batch = 1;
  EXPECT_NE(refusal(given).message().find("has 2 sentences, expected 1"), std::string::npos);
  given = inputs(1);
  const std::vector<std::string_view> one = {"good"};
  given.words.emplace(one);
  EXPECT_NE(refusal(given).message().find("given more than once"), std::string::npos);
  EXPECT_TRUE(runtime.predict(of(one)));  // and the runtime goes on
}

TEST_F(TextTest, ABundleWithoutAnEncoderSaysSo) {
  manifest["text"] = nullptr;
  manifest["graphs"].erase("text.fp32");
  write_manifest_text(manifest.dump());
  Runtime runtime = open();
  EXPECT_FALSE(runtime.has_text_encoder());
  const std::vector<std::string_view> one = {"good"};
  const auto found = runtime.predict(of(one));
  EXPECT_EQ(found.status().code(), StatusCode::kGraphUnavailable);
  EXPECT_NE(found.status().message().find("the bundle has no text encoder"), std::string::npos);
}

TEST_F(TextTest, ABadTokenizerStopsWordsAndNothingElse) {
  Json other = Json::parse(read("tokenizer.json"));
  other["model"]["type"] = "BPE";
  for (const auto& [content, code] : {std::pair{std::string("{"), StatusCode::kBundleDamaged},
                                      {other.dump(), StatusCode::kGraphUnavailable}}) {
    add_file("tokenizer.json", content);
    Runtime runtime = open();
    const std::vector<std::string_view> one = {"good"};
    const auto found = runtime.predict(of(one));
    EXPECT_EQ(found.status().code(), code) << found.status().message();
    EXPECT_NE(found.status().message().find("tokenizer.json"), std::string::npos);
    EXPECT_TRUE(runtime.predict(inputs(1)));
    Inputs given = inputs(1);
    given.text.reset();
    const std::vector<std::int64_t> ids = {2, 10, 3};
    const std::vector<TokenIds> rows = {ids};
    given.token_ids.emplace(rows);
    EXPECT_TRUE(runtime.predict(given));  // ids need no tokenizer
  }
}

TEST_F(TextTest, AGraphOfAnotherLengthIsRefused) {
  manifest["text"]["lengths"] = "fixed";
  write_manifest_text(manifest.dump());
  Runtime runtime = open();
  const std::vector<std::string_view> one = {"good"};
  EXPECT_EQ(runtime.predict(of(one)).status().code(), StatusCode::kBundleDamaged);
  add_file("graphs/text.fp32.onnx", "fake text=3x4 | input_ids=3 attention_mask=3");
  Runtime fixed = open();
  const auto found = fixed.predict(of(one));
  ASSERT_TRUE(found) << found.status().message();
  EXPECT_NEAR(found->score[0], expected({2, 10, 3}), 1e-6);
}

TEST_F(TextTest, CReadsWordsToo) {
  dmdkit_options options;
  dmdkit_options_init(&options);
  options.backend = "fake";
  options.backend_directory = DMDKIT_TEST_BACKENDS;
  dmdkit_runtime* runtime = nullptr;
  ASSERT_EQ(dmdkit_open(folder.c_str(), &options, &runtime), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_STREQ(dmdkit_text_graph(runtime), "");
  const Inputs rest = inputs(1);
  dmdkit_inputs given;
  dmdkit_inputs_init(&given);
  given.data[DMDKIT_AUDIO] = rest.audio->data();
  given.count[DMDKIT_AUDIO] = rest.audio->size();
  given.data[DMDKIT_VISION] = rest.vision->data();
  given.count[DMDKIT_VISION] = rest.vision->size();
  const char* words[] = {"good good"};
  given.words = words;
  dmdkit_prediction prediction;
  dmdkit_prediction_init(&prediction);
  float score = 0;
  ASSERT_EQ(dmdkit_predict(runtime, &given, &score, 1, &prediction), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_NEAR(score, expected({2, 10, 3}), 1e-6);
  EXPECT_EQ(prediction.truncated, 1U);
  EXPECT_STREQ(dmdkit_text_graph(runtime), "text.fp32");
  const std::int64_t ids[] = {2, 3};
  const std::int64_t* const rows[] = {ids};
  const std::size_t counts[] = {2};
  given.words = nullptr;
  given.token_ids = rows;
  EXPECT_EQ(dmdkit_predict(runtime, &given, &score, 1, &prediction), DMDKIT_INVALID_INPUT);  // their number is missing
  given.token_counts = counts;
  ASSERT_EQ(dmdkit_predict(runtime, &given, &score, 1, &prediction), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_NEAR(score, expected({2, 3}), 1e-6);
  dmdkit_stats stats;
  dmdkit_stats_init(&stats);
  ASSERT_EQ(dmdkit_get_stats(runtime, &stats), DMDKIT_OK);
  EXPECT_EQ(stats.truncated, 1U);
  dmdkit_close(runtime);
}

std::vector<Json> vectors(const char* kind) {
  std::ifstream stream(std::string(DMDKIT_TEST_VECTORS) + "/words.json");
  return Json::parse(stream).at(kind).get<std::vector<Json>>();
}

TEST(WordsVectorsTest, WhatIsWordsIdsAndFeatures) {
  const char* const kinds[] = {"words", "ids", "features"};
  for (const Json& given : vectors("kinds")) {
    EXPECT_EQ(kinds[static_cast<int>(text_kind_of(given.at("value")))], given.at("kind")) << given.dump();
  }
}

TEST(WordsVectorsTest, RowsOfIds) {
  for (const Json& given : vectors("rows")) {
    SCOPED_TRACE(given.dump());
    text::TextRecord record;
    record.max_tokens = given.at("max_tokens").get<std::size_t>();
    record.vocabulary_size = given.at("vocabulary_size").get<std::size_t>();
    record.pad_id = given.at("pad_id").get<std::int64_t>();
    const auto ids = given.at("ids").get<std::vector<std::int64_t>>();
    const text::Ids found = text::without_padding(ids, record.pad_id);
    std::string refusal;
    try {
      text::check_ids(found, 0, record);
      EXPECT_EQ(Json(found), given.at("tokens"));
    } catch (const Failure& failure) {
      refusal = failure.what();
    }
    EXPECT_EQ(refusal, given.value("refusal", ""));
  }
}

TEST(WordsVectorsTest, LengthGroups) {
  for (const Json& given : vectors("groups")) {
    EXPECT_EQ(Json(text::length_groups(given.at("lengths").get<std::vector<std::size_t>>())), given.at("groups"));
  }
}

TEST(UnicodeTest, RefusesWhatIsNotUtf8) {
  for (const char* bad : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "a\x80", "\xE2\x82"}) {
    EXPECT_FALSE(text::from_utf8(bad)) << bad;
  }
  const std::string good = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80\xF4\x8F\xBF\xBF";
  std::string back;
  const std::u32string codes = text::from_utf8(good).value_or(std::u32string());
  for (const char32_t code : codes) text::append_utf8(code, back);
  EXPECT_EQ(back, good);
}

}  // namespace
}  // namespace dmdkit
