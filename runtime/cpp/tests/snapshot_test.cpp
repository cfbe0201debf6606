#include "snapshot.hpp"

#include "stream_fixture.hpp"

namespace dmdkit {
namespace {

using SnapshotTest = StreamTest;

TEST_F(SnapshotTest, AnotherStreamGoesOnFromASnapshotWhereverItWasTaken) {
  for (std::size_t taken = 0; taken < 20; ++taken) {
    auto first = open_stream(going_on());
    for (std::size_t step = 0; step < taken; ++step) ASSERT_TRUE(first->push(steps(step)).ok());
    const auto bytes = first->snapshot();
    ASSERT_TRUE(bytes.ok()) << bytes.status().message();
    auto second = open_stream(going_on());
    ASSERT_TRUE(second->push(steps(50, 9)).ok());
    const Status status = second->restore(*bytes);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(*second->snapshot(), *bytes);
    EXPECT_EQ(second->heard(), taken);
    for (std::size_t step = taken; step < taken + 16; ++step) {
      const auto one = first->push(steps(step));
      const auto other = second->push(steps(step));
      ASSERT_TRUE(one.ok() && other.ok());
      ASSERT_EQ(one->count, other->count);
      EXPECT_EQ(one->steps, other->steps);
      ASSERT_EQ(std::vector<float>(one->score.begin(), one->score.end()),
                std::vector<float>(other->score.begin(), other->score.end()));
    }
  }
}

TEST_F(SnapshotTest, ASnapshotRemembersTimesAndHeldRows) {
  StreamOptions with;
  with.missing = {"error", "hold", "hold"};
  auto first = open_stream(with);
  Steps timed = steps(0);
  timed.time_s = {1.0, std::nullopt, 2.5};
  ASSERT_TRUE(first->push(timed).ok());
  auto second = open_stream(with);
  ASSERT_TRUE(second->restore(*first->snapshot()).ok());
  timed.time_s[0] = 0.5;
  EXPECT_NE(second->push(timed).status().message().find("came after 1.000000 s"), std::string::npos);
  Steps without = steps(1, 2);
  without.audio.reset();
  EXPECT_EQ(second->push(without)->score[0], 6.0F * (4 + 3) + 3.0F * 2);
}

TEST_F(SnapshotTest, ASnapshotOfAnotherKindIsRefusedAndTheStreamStaysAsItWas) {
  auto stream = open_stream(going_on());
  ASSERT_TRUE(stream->push(steps(0, 5)).ok());
  const std::vector<std::uint8_t> whole = *stream->snapshot();
  const auto refusal = [&](std::vector<std::uint8_t> bytes) {
    const Status status = stream->restore(bytes);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_EQ(*stream->snapshot(), whole);
    return status.message();
  };
  EXPECT_EQ(refusal({}), "these bytes are no snapshot of a stream");
  EXPECT_EQ(refusal(std::vector<std::uint8_t>(200)), "these bytes are no snapshot of a stream");
  std::vector<std::uint8_t> changed = whole;
  changed[7] = '2';
  EXPECT_NE(refusal(changed).find("has version '2', this dmdkit reads '1'"), std::string::npos);
  for (std::size_t at = 8; at < whole.size(); at += 13) {
    changed = whole;
    changed[at] ^= 0x10U;
    EXPECT_NE(refusal(changed).find("checksum differs"), std::string::npos) << at;
  }
  changed.assign(whole.begin(), whole.end() - 1);
  EXPECT_NE(refusal(changed).find("checksum differs"), std::string::npos);
  step_text += " ";  // another file, so another hash
  write_stream();
  auto other = open_stream(going_on());
  const Status status = other->restore(whole);
  EXPECT_NE(status.message().find("of another bundle, or of another precision"), std::string::npos) << status.message();
}

TEST_F(SnapshotTest, AStreamThatGoesOnNeedsASnapshotOfOneThatDoes) {
  auto stops = open_stream();
  auto goes_on = open_stream(going_on());
  ASSERT_TRUE(stops->push(steps(0, 4)).ok());
  EXPECT_TRUE(goes_on->restore(*stops->snapshot()).ok());
  ASSERT_TRUE(stops->push(steps(4)).ok());
  EXPECT_NE(goes_on->restore(*stops->snapshot()).message().find("past_limit='stop'"), std::string::npos);
  ASSERT_TRUE(goes_on->push(steps(4, 2)).ok());
  ASSERT_TRUE(stops->restore(*goes_on->snapshot()).ok());
  EXPECT_EQ(stops->push(steps(6))->score[0], expected(6, 7));
  EXPECT_FALSE(goes_on->restore(*stops->snapshot()).ok());  // it kept nothing for the window after it
}

}  // namespace
}  // namespace dmdkit
