#include "../backends/onnxruntime/huge_pages.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <string>

namespace dmdkit_onnxruntime {
namespace {

constexpr std::size_t kBytes = std::size_t{16} << 20;

// A mapping that is written, as a session's weights are.
class Mapping {
 public:
  Mapping() : place_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (place_ != MAP_FAILED) std::memset(place_, 1, kBytes);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (place_ != MAP_FAILED) munmap(place_, kBytes);
  }
  const unsigned char* bytes() const { return static_cast<const unsigned char*>(place_); }

 private:
  void* place_;
};

TEST(HugePages, what_came_while_a_large_graph_was_opened_is_moved_and_keeps_its_values) {
  std::string allowed;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), allowed);
  if (allowed.empty() || allowed.find("[never]") != std::string::npos) GTEST_SKIP() << "this machine has no huge pages";

  const HugePages pages(kHugePagesFrom);
  const Mapping weights;
  const std::size_t taken = pages.take_what_came();

  if (taken == 0) GTEST_SKIP() << "the kernel had no huge page to give";
  EXPECT_GE(taken, std::size_t{2} << 20);
  EXPECT_EQ(weights.bytes()[0], 1);
  EXPECT_EQ(weights.bytes()[kBytes - 1], 1);
}

TEST(HugePages, what_was_there_before_stays_where_it_is) {
  const Mapping before;
  const HugePages pages(kHugePagesFrom);

  EXPECT_LT(pages.take_what_came(), kBytes / 2);
}

TEST(HugePages, a_small_graph_is_left_alone) {
  const HugePages pages(kHugePagesFrom - 1);
  const Mapping weights;

  EXPECT_EQ(pages.take_what_came(), 0U);
}

}  // namespace
}  // namespace dmdkit_onnxruntime
