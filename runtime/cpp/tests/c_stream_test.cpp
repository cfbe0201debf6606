#include <cstring>

#include "dmdkit/dmdkit.h"
#include "stream_fixture.hpp"

namespace dmdkit {
namespace {

class CStreamTest : public StreamTest {
 protected:
  void SetUp() override {
    StreamTest::SetUp();
    dmdkit_options options;
    dmdkit_options_init(&options);
    options.backend = "fake";
    options.backend_directory = DMDKIT_TEST_BACKENDS;
    ASSERT_EQ(dmdkit_open(folder.c_str(), &options, &runtime), DMDKIT_OK) << dmdkit_last_error();
    dmdkit_stream_options_init(&with);
    ASSERT_EQ(dmdkit_stream_open(runtime, &with, &stream), DMDKIT_OK) << dmdkit_last_error();
  }
  void TearDown() override {
    dmdkit_stream_close(stream);
    dmdkit_close(runtime);
    StreamTest::TearDown();
  }

  dmdkit_steps c_steps(std::size_t first, std::size_t count = 1) {
    steps(first, count);
    dmdkit_steps given;
    dmdkit_steps_init(&given);
    given.count = count;
    const std::vector<float>* values[] = {&text, &audio, &vision};
    for (int i = 0; i < DMDKIT_MODALITIES; ++i) {
      given.data[i] = values[i]->data();
      given.values[i] = values[i]->size();
    }
    return given;
  }

  dmdkit_runtime* runtime = nullptr;
  dmdkit_stream* stream = nullptr;
  dmdkit_stream_options with;
};

TEST_F(CStreamTest, PushesAnswerAndOutliveTheRuntime) {
  EXPECT_EQ(dmdkit_stream_limit(stream), kWindow);
  EXPECT_NE(std::strstr(dmdkit_stream_note(stream), "padded"), nullptr);
  dmdkit_close(runtime);
  runtime = nullptr;
  float score[4], logits[12], edges[24];
  dmdkit_step_answer answer;
  dmdkit_step_answer_init(&answer);
  answer.score = score, answer.score_count = 4;
  answer.logit_hetero = logits, answer.logit_hetero_count = 12;
  answer.edges_hetero = edges, answer.edges_hetero_count = 24;
  dmdkit_steps given = c_steps(0, 2);
  ASSERT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_OK) << dmdkit_last_error();
  EXPECT_EQ(answer.count, 0U);
  given = c_steps(2, 4);
  ASSERT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_OK) << dmdkit_last_error();
  ASSERT_EQ(answer.count, 4U);
  EXPECT_EQ(answer.steps, 6U);
  EXPECT_EQ(answer.heard, 6U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(score[i], expected(i + 2, i + 3));
    EXPECT_EQ(logits[3 * i + 1], score[i] + 1.0F);
    EXPECT_EQ(edges[6 * i + 5], score[i] + 5.0F);
  }
  given = c_steps(6, 2);
  EXPECT_EQ(dmdkit_stream_push(stream, &given, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_NE(std::strstr(dmdkit_last_error(), "reset it"), nullptr);
  ASSERT_EQ(dmdkit_stream_reset(stream), DMDKIT_OK);
  EXPECT_EQ(dmdkit_stream_push(stream, &given, nullptr), DMDKIT_OK);
}

TEST_F(CStreamTest, MissingModalitiesAndTimesGoThrough) {
  with.past_limit = "window";
  with.missing[DMDKIT_AUDIO] = "absent";
  with.missing[DMDKIT_TEXT] = with.missing[DMDKIT_VISION] = "hold";
  with.step_s = 0.5;
  dmdkit_stream_close(stream);
  ASSERT_EQ(dmdkit_stream_open(runtime, &with, &stream), DMDKIT_OK) << dmdkit_last_error();
  dmdkit_step_answer answer;
  dmdkit_step_answer_init(&answer);
  for (std::size_t step = 0; step < 2; ++step) {
    dmdkit_steps given = c_steps(step);
    given.timed = 1U << DMDKIT_TEXT;
    given.time_s[DMDKIT_TEXT] = static_cast<double>(step);  // every other step is missing
    given.missing = 1U << DMDKIT_AUDIO;
    ASSERT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_OK) << dmdkit_last_error();
  }
  EXPECT_EQ(answer.heard, 3U);
  EXPECT_EQ(answer.filled[DMDKIT_TEXT], DMDKIT_FILLED_NONE);
  EXPECT_EQ(answer.filled[DMDKIT_AUDIO], DMDKIT_FILLED_ABSENT);
  dmdkit_steps back = c_steps(2);
  back.timed = 1U << DMDKIT_TEXT;
  back.time_s[DMDKIT_TEXT] = 0.75;
  EXPECT_EQ(dmdkit_stream_push(stream, &back, &answer), DMDKIT_INVALID_INPUT);
  EXPECT_NE(std::strstr(dmdkit_last_error(), "0.750000 s came after 1.000000 s"), nullptr) << dmdkit_last_error();
}

TEST_F(CStreamTest, SnapshotsSayTheirSizeAndGoBack) {
  dmdkit_steps given = c_steps(0, 4);
  ASSERT_EQ(dmdkit_stream_push(stream, &given, nullptr), DMDKIT_OK);
  std::size_t size = 0;
  ASSERT_EQ(dmdkit_stream_snapshot(stream, nullptr, &size), DMDKIT_OK);
  std::vector<unsigned char> bytes(size);
  std::size_t room = size - 1;
  EXPECT_EQ(dmdkit_stream_snapshot(stream, bytes.data(), &room), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(room, size);
  ASSERT_EQ(dmdkit_stream_snapshot(stream, bytes.data(), &room), DMDKIT_OK);
  ASSERT_EQ(dmdkit_stream_reset(stream), DMDKIT_OK);
  ASSERT_EQ(dmdkit_stream_restore(stream, bytes.data(), size), DMDKIT_OK) << dmdkit_last_error();
  float score = 0.0F;
  dmdkit_step_answer answer;
  dmdkit_step_answer_init(&answer);
  answer.score = &score, answer.score_count = 1;
  given = c_steps(4);
  ASSERT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_OK);
  EXPECT_EQ(score, expected(4, 5));
  EXPECT_EQ(dmdkit_stream_restore(stream, bytes.data(), size - 1), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_restore(stream, nullptr, size), DMDKIT_INVALID_INPUT);
}

TEST_F(CStreamTest, NullPointersAndUninitialisedStructsAreStatuses) {
  dmdkit_stream* opened = nullptr;
  dmdkit_steps given = c_steps(0);
  EXPECT_EQ(dmdkit_stream_open(nullptr, nullptr, &opened), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_open(runtime, nullptr, nullptr), DMDKIT_INVALID_INPUT);
  dmdkit_stream_options no_options{};
  EXPECT_EQ(dmdkit_stream_open(runtime, &no_options, &opened), DMDKIT_INVALID_INPUT);
  with.past_limit = "loop";
  EXPECT_EQ(dmdkit_stream_open(runtime, &with, &opened), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(opened, nullptr);
  EXPECT_EQ(dmdkit_stream_push(nullptr, &given, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_push(stream, nullptr, nullptr), DMDKIT_INVALID_INPUT);
  const dmdkit_steps no_steps{};
  EXPECT_EQ(dmdkit_stream_push(stream, &no_steps, nullptr), DMDKIT_INVALID_INPUT);
  dmdkit_step_answer answer{};
  EXPECT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_INVALID_INPUT);
  float score = 0.0F;
  dmdkit_step_answer_init(&answer);
  answer.score = &score;
  EXPECT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_reset(nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_snapshot(stream, nullptr, nullptr), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_restore(nullptr, "", 0), DMDKIT_INVALID_INPUT);
  EXPECT_EQ(dmdkit_stream_limit(nullptr), 0U);
  dmdkit_stream_close(nullptr);
  dmdkit_step_answer_init(&answer);
  EXPECT_EQ(dmdkit_stream_push(stream, &given, &answer), DMDKIT_OK);
  EXPECT_EQ(answer.heard, 1U);
}

}  // namespace
}  // namespace dmdkit
