#include "team.hpp"

#include <system_error>

namespace dmdkit_native {
namespace {

constexpr int kSpins = 2000;  // some tens of microseconds: what a futex would cost

}  // namespace

void relax(int& rounds) {
  if (++rounds > kSpins) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

Team::Team(int helpers) {
  threads_.reserve(helpers > 0 ? static_cast<std::size_t>(helpers) : 0);
  try {
    for (int member = 1; member <= helpers; ++member) threads_.emplace_back([this, member] { help(member); });
  } catch (const std::system_error&) {
    // Fewer threads give the same answers later.
  }
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(void (*body)(void* work, int member), void* work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = body;
    work_ = work;
    ++call_;
    open_ = true;
  }
  wake_.notify_all();
  body(work, 0);
  for (int rounds = 0; inside_.load(std::memory_order_relaxed) != 0 && rounds < kSpins;) relax(rounds);
  std::unique_lock<std::mutex> lock(mutex_);
  open_ = false;
  back_.wait(lock, [this] { return inside_.load(std::memory_order_relaxed) == 0; });
}

void Team::help(int member) {
  std::uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return ending_ || (open_ && call_ != seen); });
    if (ending_) return;
    seen = call_;
    inside_.fetch_add(1, std::memory_order_relaxed);
    lock.unlock();
    body_(work_, member);
    lock.lock();
    inside_.fetch_sub(1, std::memory_order_relaxed);
    back_.notify_one();
  }
}

}  // namespace dmdkit_native
