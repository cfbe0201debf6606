// Threads that help with a call. They wait between calls, and a call waits only for those that came in time.
#ifndef DMDKIT_BACKENDS_NATIVE_TEAM_HPP_
#define DMDKIT_BACKENDS_NATIVE_TEAM_HPP_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace dmdkit_native {

// Gives the core to whoever can use it: waiting for another thread's result takes microseconds where that thread runs.
void relax(int& rounds);

class Team {
 public:
  // `helpers` threads besides the caller's; fewer where the system gives no more.
  explicit Team(int helpers);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int helpers() const { return static_cast<int>(threads_.size()); }

  // body(work, 0) on this thread and body(work, i), i from 1, on every helper that wakes up while it runs. Returns when all are
  // back. The body must give the right result whoever comes. Allocates nothing; one call at a time.
  void run(void (*body)(void* work, int member), void* work);

 private:
  void help(int member);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable back_;
  void (*body_)(void*, int) = nullptr;
  void* work_ = nullptr;
  std::uint64_t call_ = 0;
  bool open_ = false;  // a call may still be joined
  bool ending_ = false;
  std::atomic<int> inside_{0};  // helpers in the body; changed under the mutex
  std::vector<std::thread> threads_;
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_TEAM_HPP_
