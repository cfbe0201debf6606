#include "engine.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace dmdkit_native {
namespace {

// Multiply-adds of a sample below which no other thread is asked: it would take about as long to wake up.
constexpr double kWorthWaking = 4e6;

std::uint32_t bit(std::size_t task) { return std::uint32_t{1} << task; }

double layer_cost(double channels, double steps, double source_steps) {
  return channels * channels * (10 * steps + 2 * source_steps) + channels * steps * source_steps;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Weights> weights, int threads) : weights_(std::move(weights)), tasks_(planned()) {
  double cost = 0;
  for (const Task& task : tasks_) cost += task.cost;
  if (threads < 1 || cost < kWorthWaking) threads = 1;
  most_urgent_first_.resize(tasks_.size());
  std::iota(most_urgent_first_.begin(), most_urgent_first_.end(), 0);
  std::sort(most_urgent_first_.begin(), most_urgent_first_.end(), [this](int a, int b) {
    return tasks_[a].urgent != tasks_[b].urgent ? tasks_[a].urgent > tasks_[b].urgent : a < b;
  });
  if (threads > 1) {
    team_ = std::make_unique<Team>(threads - 1);
    threads = team_->helpers() + 1;
  }
  // Workers are made after the threads that use them, which wait for the first call.
  workers_.reserve(static_cast<std::size_t>(threads));
  samples_.reserve(static_cast<std::size_t>(threads));
  for (int member = 0; member < threads; ++member) {
    workers_.emplace_back(*weights_);
    samples_.emplace_back(*weights_);
  }
}

// As one thread goes through them; what others need stands before what needs it.
std::vector<Engine::Task> Engine::planned() const {
  const Plan& plan = weights_->plan;
  const double e = plan.width;
  std::vector<Task> tasks;
  const auto steps_of = [&](int m) { return static_cast<double>(plan.inputs[m].projected()); };
  for (int m = 0; m < kModalityCount; ++m) {
    const Plan::Input& input = plan.inputs[m];
    const double taken = static_cast<double>(input.features) * input.kernel * e * (weights_->front[m].projects ? 1 : 2);
    tasks.push_back({Task::kEmbed, m, 0, 0, taken * steps_of(m), 0});
  }
  for (int m = 0; m < kModalityCount; ++m) {
    tasks.push_back({Task::kSelf, m, 0, bit(m), (plan.levels - 1) * layer_cost(e, steps_of(m), steps_of(m)), 0});
  }
  for (int m = 0; m < kModalityCount; ++m) {
    std::uint32_t crossed = 0;
    for (int half = 0; half < 2; ++half) {
      const int source = weights_->crossed[2 * m + half].source;
      crossed |= bit(tasks.size());
      tasks.push_back(
          {Task::kCrossed, m, half, bit(m) | bit(source), plan.levels * layer_cost(e, steps_of(m), steps_of(source)), 0});
    }
    const double layers = plan.memory_levels - 1 + 0.5;
    tasks.push_back({Task::kMemory, m, 0, crossed, layers * layer_cost(2 * e, steps_of(m), steps_of(m)), 0});
  }
  for (std::size_t i = tasks.size(); i-- > 0;) {
    tasks[i].urgent += tasks[i].cost;
    for (std::size_t before = 0; before < i; ++before) {
      if ((tasks[i].needs & bit(before)) != 0) tasks[before].urgent = std::max(tasks[before].urgent, tasks[i].urgent);
    }
  }
  return tasks;
}

void Engine::run_task(const Task& task, Worker& worker, Sample& sample, const Features& features) {
  switch (task.kind) {
    case Task::kEmbed:
      worker.embed(sample, task.modality, features[task.modality]);
      break;
    case Task::kCrossed:
      worker.run_crossed(sample, task.modality, task.half);
      break;
    case Task::kSelf:
      worker.run_self(sample, task.modality);
      break;
    case Task::kMemory:
      worker.run_memory(sample, task.modality);
      break;
  }
}

Engine::Features Engine::sample_of(std::size_t index) const {
  Features found = features_;
  for (int m = 0; m < kModalityCount; ++m) {
    const Plan::Input& input = weights_->plan.inputs[m];
    found[m] += index * static_cast<std::size_t>(input.steps) * input.features;
  }
  return found;
}

void Engine::read_after(std::size_t index, Sample& sample) const {
  if (steps_ != nullptr) sample.read_after(static_cast<int>(steps_[index]) - weights_->plan.inputs[0].kernel + 1);
}

void Engine::run_alone(int member, std::size_t index) {
  const Features features = sample_of(index);
  read_after(index, samples_[member]);
  for (const Task& task : tasks_) run_task(task, workers_[member], samples_[member], features);
  workers_[member].read_out(samples_[member], scores_ + index * weights_->plan.outputs);
}

// One member's part of a batch: the samples that nobody has taken.
void Engine::share_batch(int member) {
  for (std::size_t index; (index = next_sample_.fetch_add(1, std::memory_order_relaxed)) < batch_;) run_alone(member, index);
}

// One member's part of one sample: the most urgent task that is ready, until none is left.
void Engine::share_sample(int member) {
  const std::uint32_t all = bit(tasks_.size()) - 1;
  const Features features = sample_of(sample_);
  int rounds = 0;
  while (taken_.load(std::memory_order_relaxed) != all) {
    const std::uint32_t done = done_.load(std::memory_order_acquire);
    bool found = false;
    for (const int i : most_urgent_first_) {
      const Task& task = tasks_[i];
      if ((taken_.load(std::memory_order_relaxed) & bit(i)) != 0 || (done & task.needs) != task.needs) continue;
      if ((taken_.fetch_or(bit(i), std::memory_order_relaxed) & bit(i)) != 0) continue;
      run_task(task, workers_[member], samples_[0], features);
      done_.fetch_or(bit(i), std::memory_order_release);
      found = true;
      rounds = 0;
      break;
    }
    if (!found) relax(rounds);
  }
  if (member != 0) return;
  for (rounds = 0; done_.load(std::memory_order_acquire) != all;) relax(rounds);
  workers_[0].read_out(samples_[0], scores_ + sample_ * weights_->plan.outputs);
}

void Engine::run(const Features& features, float* scores, std::size_t batch, const float* steps) {
  steps_ = steps;
  features_ = features;
  scores_ = scores;
  if (threads() == 1) {
    for (std::size_t index = 0; index < batch; ++index) run_alone(0, index);
    return;
  }
  // As many samples each as go round, and the rest together.
  batch_ = batch / workers_.size() * workers_.size();
  if (batch_ > 0) {
    next_sample_ = 0;
    team_->run([](void* engine, int member) { static_cast<Engine*>(engine)->share_batch(member); }, this);
  }
  for (sample_ = batch_; sample_ < batch; ++sample_) {
    taken_ = 0;
    done_ = 0;
    read_after(sample_, samples_[0]);
    team_->run([](void* engine, int member) { static_cast<Engine*>(engine)->share_sample(member); }, this);
  }
}

}  // namespace dmdkit_native
