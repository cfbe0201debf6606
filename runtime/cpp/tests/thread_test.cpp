// The documented rule for threads; run under ThreadSanitizer by `make test-all`.
#include <atomic>
#include <thread>

#include "bundle_fixture.hpp"

namespace dmdkit {
namespace {

using ThreadTest = BundleTest;

TEST_F(ThreadTest, RuntimesInTwoThreadsAreIndependent) {
  const Inputs given = inputs();
  std::atomic<int> good{0};
  const auto work = [&] {
    auto runtime = Runtime::open(folder, options());
    for (int i = 0; runtime && i < 200; ++i) good += runtime->predict(given).ok() ? 1 : 0;
  };
  std::thread first(work), second(work);
  first.join();
  second.join();
  EXPECT_EQ(good, 400);
}

TEST_F(ThreadTest, OneRuntimeMayBeSharedThroughCopies) {
  auto runtime = Runtime::open(folder, options());
  ASSERT_TRUE(runtime.ok());
  std::atomic<int> good{0};
  const auto work = [&](float value, std::size_t batch) {
    const std::vector<float> t(batch * kTextSize, value), a(batch * kAudioSize, value), v(batch * kVisionSize, value);
    std::vector<float> score(batch), edges(batch * 6);
    for (int i = 0; i < 200; ++i) {
      const auto prediction = runtime->predict_into({t, a, v, batch}, score);
      if (!prediction || score[batch - 1] < value - 1e-5F || score[batch - 1] > value + 1e-5F) return;
      ExplanationBuffers buffers;
      buffers.edges_homo = edges;
      if (!runtime->explain_into({t, a, v, batch}, buffers) || runtime->stats().count == 0) return;
    }
    ++good;
  };
  std::thread first(work, 0.25F, 1), second(work, -0.5F, 3), third([&] {
    for (int i = 0; i < 20; ++i) good += runtime->self_check(true)->passed ? 0 : -100;
  });
  first.join();
  second.join();
  third.join();
  EXPECT_EQ(good, 2);
}

}  // namespace
}  // namespace dmdkit
