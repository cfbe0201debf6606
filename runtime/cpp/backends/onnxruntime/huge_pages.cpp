#include "huge_pages.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>

namespace dmdkit_onnxruntime {
namespace {

// madvise(2); older headers lack the second.
constexpr int kHugePage = 14;  // MADV_HUGEPAGE
constexpr int kCollapse = 25;  // MADV_COLLAPSE

// Where a huge page is larger (512 MB with 64 kB base pages), nothing of ours fills one.
constexpr std::size_t kLargestPage = std::size_t{32} << 20;

// Size of a huge page; 0 where there are none, or where the machine's owner switched them off (`never`).
std::size_t page_bytes() {
  const std::string settings = "/sys/kernel/mm/transparent_hugepage/";
  std::string allowed;
  std::getline(std::ifstream(settings + "enabled"), allowed);
  std::size_t size = 0;
  std::ifstream(settings + "hpage_pmd_size") >> size;
  const bool off = allowed.empty() || allowed.find("[never]") != std::string::npos;
  return off || size > kLargestPage ? 0 : size;
}

}  // namespace

HugePages::HugePages(std::size_t model_bytes) {
  if (model_bytes < kHugePagesFrom) return;
  page_ = page_bytes();
  if (page_ > 0) before_ = anonymous();
  if (before_.empty()) page_ = 0;
}

// Private writable memory without a file behind it: the heap and what was allocated beside it, from low to high.
HugePages::Ranges HugePages::anonymous() {
  Ranges found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    std::uintptr_t low = 0;
    std::uintptr_t high = 0;
    char dash = 0;
    std::string rights;
    std::string offset;
    std::string device;
    std::string inode;
    std::string name;
    fields >> std::hex >> low >> dash >> high >> rights >> offset >> device >> inode;
    if (!fields || rights != "rw-p" || inode != "0") continue;
    fields >> name;
    if (name.empty() || name == "[heap]") found.emplace_back(low, high);
  }
  return found;
}

std::size_t HugePages::take_what_came() const noexcept {
  if (page_ == 0) return 0;
  try {
    std::size_t taken = 0;
    const auto take = [&](std::uintptr_t low, std::uintptr_t high) {
      const std::uintptr_t start = (low + page_ - 1) / page_ * page_;
      const std::uintptr_t end = high / page_ * page_;
      if (end <= start) return;
      void* place = reinterpret_cast<void*>(start);  // NOLINT(performance-no-int-to-ptr): the kernel's own number
      int done = madvise(place, end - start, kCollapse);
      // Before Linux 6.1: the kernel moves it when it finds the time.
      if (done != 0 && errno == EINVAL) done = madvise(place, end - start, kHugePage);
      if (done == 0) taken += end - start;
    };
    for (auto [low, high] : anonymous()) {
      for (const auto& [first, last] : before_) {
        if (last <= low || first >= high) continue;
        take(low, std::max(low, first));
        low = last;
      }
      if (low < high) take(low, high);
    }
    return taken;
  } catch (const std::exception&) {  // no memory for the list: the weights stay where they are
    return 0;
  }
}

}  // namespace dmdkit_onnxruntime
