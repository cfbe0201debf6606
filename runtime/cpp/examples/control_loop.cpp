// A 100 Hz control loop that predicts in every period, accounts for deadlines and stops at SIGINT or SIGTERM.
//
//   control_loop BUNDLE RECORDING [PERIODS]
//
// RECORDING holds raw little-endian float32: sample after sample, each text, audio, vision in turn (the layout is what a sensor
// log would give; `python3 -c` with numpy's tofile writes one).
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <vector>

#include "dmdkit/runtime.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPeriod{10};
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void request_stop(int) { stop_requested = true; }

// Nothing for what is no regular file: a directory has a size too, of no use to anyone.
std::vector<float> read_recording(const char* path) {
  std::error_code problem;
  const std::uintmax_t bytes = std::filesystem::file_size(path, problem);
  std::ifstream stream(path, std::ios::binary);
  if (problem || !stream) return {};
  std::vector<float> values(bytes / sizeof(float));
  stream.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  values.resize(static_cast<std::size_t>(stream.gcount()) / sizeof(float));
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: control_loop BUNDLE RECORDING [PERIODS]\n"), 1;
  const long periods = argc > 3 ? std::strtol(argv[3], nullptr, 10) : 0;  // 0: until stopped
  dmdkit::Options options;
  options.deadline_us = 8000;  // leaves 2 ms of the period to the rest of the loop
  options.spin = false;        // other nodes need the cores between periods
  auto runtime = dmdkit::Runtime::open(argv[1], options);
  if (!runtime) return std::fprintf(stderr, "%s\n", runtime.status().message().c_str()), 1;
  const auto check = runtime->self_check();
  if (!check) return std::fprintf(stderr, "%s\n", check.status().message().c_str()), 1;
  if (!check->passed) return std::fprintf(stderr, "the self-check did not pass; not starting\n"), 2;

  std::array<std::size_t, dmdkit::kModalities> sizes{};
  std::size_t sample_size = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    sizes[i] = runtime->inputs()[i].steps * runtime->inputs()[i].features;
    sample_size += sizes[i];
  }
  const std::vector<float> recording = read_recording(argv[2]);
  const std::size_t samples = recording.size() / sample_size;
  if (samples == 0) return std::fprintf(stderr, "%s: holds no whole sample of %zu values\n", argv[2], sample_size), 1;

  std::signal(SIGINT, request_stop);
  std::signal(SIGTERM, request_stop);
  long done = 0;
  long late_wakeups = 0;
  Clock::time_point next = Clock::now();
  while (!stop_requested && (periods == 0 || done < periods)) {
    const float* sample = recording.data() + (static_cast<std::size_t>(done) % samples) * sample_size;
    const auto prediction =
        runtime->predict({dmdkit::FloatView(sample, sizes[0]), dmdkit::FloatView(sample + sizes[0], sizes[1]),
                          dmdkit::FloatView(sample + sizes[0] + sizes[1], sizes[2])});
    if (!prediction) {
      // A loop keeps its rhythm: report, hold the last command, go on with the next period.
      std::fprintf(stderr, "period %ld: %s\n", done, prediction.status().message().c_str());
    }
    ++done;
    next += kPeriod;
    if (Clock::now() > next) {
      ++late_wakeups;
      next = Clock::now();  // skip what was missed instead of running behind for ever
    }
    std::this_thread::sleep_until(next);
  }
  const dmdkit::Stats stats = runtime->stats();
  std::printf("%ld periods, %ld overrun; predict p50 %.3f p99 %.3f max %.3f ms; %llu deadline misses; stopped %s\n", done,
              late_wakeups, stats.p50_ms, stats.p99_ms, stats.max_ms, static_cast<unsigned long long>(stats.deadline_misses),
              stop_requested ? "by signal" : "at the end");
  return 0;
}
