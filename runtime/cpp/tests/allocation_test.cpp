// No allocation of ours per prediction after the first: the global operator new counts while a test asks it to. (malloc itself
// is not counted, as the sanitizers bring their own; our code allocates with new and std::vector only, apart from the buffers.)
#include <atomic>
#include <cstdlib>
#include <new>

#include "bundle_fixture.hpp"
#include "dmdkit/dmdkit.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};

void* counted(std::size_t size) {
  if (counting) ++allocations;
  if (void* memory = std::malloc(size != 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace dmdkit {
namespace {

class AllocationTest : public BundleTest {
 protected:
  template <typename Body>
  static long allocations_of(Body&& body) {
    allocations = 0;
    counting = true;
    for (int i = 0; i < 100; ++i) body();
    counting = false;
    return allocations;
  }
};

TEST_F(AllocationTest, TheCounterCounts) {
  EXPECT_EQ(allocations_of([] { delete new int; }), 100);
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
