// No allocation of ours per prediction after the first.
#include "counting_new.hpp"
#include "dmdkit/dmdkit.h"
#include "stream_fixture.hpp"

namespace dmdkit {
namespace {

template <typename Body>
long allocations_of(Body&& body) {
  return dmdkit_test::allocations_of(100, body);
}

using AllocationTest = BundleTest;
using StreamAllocationTest = StreamTest;

TEST_F(AllocationTest, TheCounterCounts) {
  int* volatile kept = nullptr;  // an allocation that nobody can see may be left out by the compiler
  EXPECT_EQ(allocations_of([&] {
              kept = new int;
              delete kept;
            }),
            100);
}

TEST_F(AllocationTest, PredictAllocatesNothing) {
  auto runtime = Runtime::open(folder, options());
  const Inputs given = inputs();
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(runtime->predict(given).ok()); }), 0);  // not even the first, with a batch of 1
}

TEST_F(AllocationTest, PredictWithABatchAndAlarmsAllocatesNothingAfterTheFirst) {
  Options with = options();
  long seen = 0;
  with.on_out_of_range = [&](View<const RangeAlarm> alarms) { seen += static_cast<long>(alarms.size()); };
  auto runtime = Runtime::open(folder, with);
  const Inputs given = inputs(4);
  text.assign(text.size(), 50.0F);
  ASSERT_TRUE(runtime->predict(given).ok());
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(runtime->predict(given).ok()); }), 0);
  EXPECT_EQ(seen, 101);
}

TEST_F(AllocationTest, ExplainAllocatesNothingAfterTheFirst) {
  auto runtime = Runtime::open(folder, options());
  const Inputs given = inputs();
  ASSERT_TRUE(runtime->explain(given).ok());
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(runtime->explain(given).ok()); }), 0);
}

TEST_F(StreamAllocationTest, APushAllocatesNothingNorDoesAReset) {
  auto stream = open_stream(going_on());
  const Steps one = steps(0);
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(stream->push(one).ok()); }), 0);  // past the window many times
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(stream->reset().ok()); }), 0);
}

TEST_F(StreamAllocationTest, APushOfSeveralStepsAllocatesNothingAfterTheFirst) {
  auto stream = open_stream(going_on());
  const Steps several = steps(0, 4);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(stream->push(several).ok());  // each state has had its largest part
  EXPECT_EQ(allocations_of([&] { ASSERT_TRUE(stream->push(several).ok()); }), 0);
}

TEST_F(AllocationTest, TheCInterfaceAllocatesNothing) {
  dmdkit_options with;
  dmdkit_options_init(&with);
  with.backend = "fake";
  with.backend_directory = DMDKIT_TEST_BACKENDS;
  dmdkit_runtime* runtime = nullptr;
  ASSERT_EQ(dmdkit_open(folder.c_str(), &with, &runtime), DMDKIT_OK) << dmdkit_last_error();
  dmdkit_inputs given;
  dmdkit_inputs_init(&given);
  const float* data[] = {text.data(), audio.data(), vision.data()};
  const std::size_t count[] = {text.size(), audio.size(), vision.size()};
  for (int i = 0; i < DMDKIT_MODALITIES; ++i) {
    given.data[i] = data[i];
    given.count[i] = count[i];
  }
  float score = 0.0F;
  EXPECT_EQ(allocations_of([&] { ASSERT_EQ(dmdkit_predict(runtime, &given, &score, 1, nullptr), DMDKIT_OK); }), 0);
  dmdkit_close(runtime);
}

}  // namespace
}  // namespace dmdkit
