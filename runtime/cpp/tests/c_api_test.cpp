#include <cstring>

#include "bundle_fixture.hpp"
#include "dmdkit/dmdkit.h"

extern "C" int dmdkit_c_header_abi(void);

namespace dmdkit {
namespace {

class CApiTest : public BundleTest {
 protected:
  void SetUp() override {
    BundleTest::SetUp();
    dmdkit_options_init(&c_options);
    c_options.backend = "fake";
    c_options.backend_directory = DMDKIT_TEST_BACKENDS;
    ASSERT_EQ(dmdkit_open(folder.c_str(), &c_options, &runtime), DMDKIT_OK) << dmdkit_last_error();
    dmdkit_inputs_init(&given);
    const std::vector<float>* values[] = {&text, &audio, &vision};
    for (int i = 0; i < DMDKIT_MODALITIES; ++i) {
      given.data[i] = values[i]->data();
      given.count[i] = values[i]->size();
    }
  }
  void TearDown() override {
    dmdkit_close(runtime);
    BundleTest::TearDown();
  }

  dmdkit_options c_options;
  dmdkit_inputs given;
  dmdkit_runtime* runtime = nullptr;
};

TEST_F(CApiTest, CompilesAsC) { EXPECT_EQ(dmdkit_c_header_abi(), DMDKIT_ABI_VERSION); }

TEST_F(CApiTest, PredictsExplainsAndChecks) {
  float score = 0.0F;
  dmdkit_prediction prediction;
  dmdkit_prediction_init(&prediction);
  ASSERT_EQ(dmdkit_predict(runtime, &given, &score, 1, &prediction), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_NEAR(score, 0.3, 1e-6);
  EXPECT_GT(prediction.latency_ms, 0.0);
  float edges[6];
  dmdkit_explanation explanation;
  dmdkit_explanation_init(&explanation);
  explanation.edges_homo = edges;
  explanation.edges_homo_count = 6;
  ASSERT_EQ(dmdkit_explain(runtime, &given, &explanation), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_NEAR(edges[2], 2.3, 1e-6);
  int passed = 0;
  ASSERT_EQ(dmdkit_self_check(runtime, 1, &passed), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_EQ(passed, 1);
  dmdkit_stats stats;
  dmdkit_stats_init(&stats);
  ASSERT_EQ(dmdkit_get_stats(runtime, &stats), DMDKIT_OK);
  EXPECT_EQ(stats.count, 1U);
  EXPECT_STREQ(dmdkit_graph(runtime), "fusion.int8-cpu");
}

TEST_F(CApiTest, AbsenceIsAFlag) {
  float score = 0.0F;
  given.absent = 1U << DMDKIT_AUDIO;
  given.data[DMDKIT_AUDIO] = nullptr;
  EXPECT_EQ(dmdkit_predict(runtime, &given, &score, 1, nullptr), DMDKIT_OK) << dmdkit_last_error();
  given.absent = 0;
  EXPECT_EQ(dmdkit_predict(runtime, &given, &score, 1, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_NE(std::strstr(dmdkit_last_error(), "audio"), nullptr);
}

TEST_F(CApiTest, NullPointersAndUninitialisedStructsAreStatuses) {
  float score = 0.0F;
  dmdkit_runtime* opened = nullptr;
  EXPECT_EQ(dmdkit_open(nullptr, nullptr, &opened), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_open("x", nullptr, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_open("/no/such", nullptr, &opened), DMDKIT_BUNDLE_NOT_FOUND);
  EXPECT_EQ(opened, nullptr);
  EXPECT_EQ(dmdkit_predict(nullptr, &given, &score, 1, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_predict(runtime, nullptr, &score, 1, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_predict(runtime, &given, nullptr, 1, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_predict(runtime, &given, &score, 0, nullptr), DMDKIT_INVALID_INPUT);
  dmdkit_inputs zero{};
  EXPECT_EQ(dmdkit_predict(runtime, &zero, &score, 1, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_get_input(runtime, 3, nullptr), DMDKIT_INVALID_INPUT);
  dmdkit_close(nullptr);
  EXPECT_STREQ(dmdkit_status_message(static_cast<dmdkit_status>(12345)), "unknown status code");
}

TEST_F(CApiTest, ABufferOfNoValuesIsTooSmallAndNotLeftOut) {
  float edges[6];
  dmdkit_explanation explanation;
  dmdkit_explanation_init(&explanation);
  explanation.edges_homo = edges;
  EXPECT_EQ(dmdkit_explain(runtime, &given, &explanation), DMDKIT_INVALID_INPUT);
  EXPECT_NE(std::strstr(dmdkit_last_error(), "room for 0 values"), nullptr);
}

TEST_F(CApiTest, AnUninitialisedAnswerIsRefusedBeforeThePrediction) {
  float score = -1.0F;
  dmdkit_prediction zero{};
  EXPECT_EQ(dmdkit_predict(runtime, &given, &score, 1, &zero), DMDKIT_INVALID_INPUT);
  dmdkit_stats stats;
  dmdkit_stats_init(&stats);
  ASSERT_EQ(dmdkit_get_stats(runtime, &stats), DMDKIT_OK);
  EXPECT_EQ(stats.count, 0U);
  EXPECT_EQ(score, -1.0F);
}

TEST_F(CApiTest, AnOlderCallersSmallerStructIsNotOverrun) {
  struct {
    dmdkit_stats stats;
    unsigned char guard[8];
  } old;
  std::memset(&old, 0x5A, sizeof old);
  old.stats.struct_size = offsetof(dmdkit_stats, p90_ms);
  ASSERT_EQ(dmdkit_get_stats(runtime, &old.stats), DMDKIT_OK);
  EXPECT_EQ(old.stats.count, 0U);
  unsigned char untouched[sizeof(double)];
  std::memset(untouched, 0x5A, sizeof untouched);
  EXPECT_EQ(std::memcmp(&old.stats.p90_ms, untouched, sizeof untouched), 0);
}

}  // namespace
}  // namespace dmdkit
