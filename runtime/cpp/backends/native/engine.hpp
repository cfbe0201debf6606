// One graph's session: what a call works in, and the order in which the stages of its samples are computed, by one thread or by
// several. Answers are the same to the last bit however many threads there are.
#ifndef DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_
#define DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "team.hpp"
#include "weights.hpp"
#include "worker.hpp"

namespace dmdkit_native {

class Engine {
 public:
  // `threads` in all; one where calls are so short that waking another takes longer.
  explicit Engine(std::shared_ptr<const Weights> weights, int threads = 1);

  // Features (batch, steps, features) of each modality -> (batch, outputs). `steps`: how many of a sample's are real, between
  // its kernel and all of them; null: all. Allocates nothing; one call at a time.
  void run(const std::array<const float*, kModalityCount>& features, float* scores, std::size_t batch = 1,
           const float* steps = nullptr);

  const Weights& weights() const { return *weights_; }
  const std::shared_ptr<const Weights>& shared_weights() const { return weights_; }
  int threads() const { return static_cast<int>(workers_.size()); }

 private:
  using Features = std::array<const float*, kModalityCount>;
  // A part of one sample's work; `needs`: the tasks, a bit each, whose results it reads.
  struct Task {
    enum Kind { kEmbed, kCrossed, kSelf, kMemory } kind;
    int modality;
    int half;
    std::uint32_t needs;
    double cost;    // in multiply-adds
    double urgent;  // cost of it and of the longest chain that waits for it
  };

  std::vector<Task> planned() const;
  void run_task(const Task& task, Worker& worker, Sample& sample, const Features& features);
  Features sample_of(std::size_t index) const;
  void read_after(std::size_t index, Sample& sample) const;
  void run_alone(int member, std::size_t index);
  void share_batch(int member);
  void share_sample(int member);

  std::shared_ptr<const Weights> weights_;
  std::vector<Worker> workers_;
  std::vector<Sample> samples_;
  std::vector<Task> tasks_;             // in an order that one thread can follow
  std::vector<int> most_urgent_first_;  // indices of tasks_
  // Of the call at hand.
  Features features_{};
  float* scores_ = nullptr;
  const float* steps_ = nullptr;
  std::size_t batch_ = 0;
  std::size_t sample_ = 0;
  std::atomic<std::size_t> next_sample_{0};
  std::atomic<std::uint32_t> taken_{0};
  std::atomic<std::uint32_t> done_{0};
  std::unique_ptr<Team> team_;  // last: its threads end before what they work in does
};

}  // namespace dmdkit_native

#endif  // DMDKIT_BACKENDS_NATIVE_ENGINE_HPP_
