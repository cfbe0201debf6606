#include "dmdkit/stream.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "failure.hpp"
#include "json_fields.hpp"
#include "stream_impl.hpp"

namespace dmdkit {
namespace {

using Clock = std::chrono::steady_clock;

std::string steps_text(std::size_t count) { return std::to_string(count) + (count == 1 ? " step" : " steps"); }

}  // namespace

Stream::Impl::Impl(std::shared_ptr<StepModel> model, const StreamOptions& options)
    : model_(std::move(model)),
      arrivals_(model_->manifest().inputs, options),
      states_(make_states(*model_, options)),
      ranges_(model_->manifest().inputs, states_.limit()),
      sizes_(model_->manifest()),
      outputs_(model_->manifest().num_outputs) {
  reserve(1);
}

StreamStates Stream::Impl::make_states(StepModel& model, const StreamOptions& options) {
  if (options.past_limit != "stop" && options.past_limit != "window") {
    throw Failure(StatusCode::kInvalidInput, "past_limit=" + in_quotes(options.past_limit) + ": expected stop or window");
  }
  auto first = model.state();
  return StreamStates(std::move(first), options.past_limit == "window" ? model.state() : nullptr, model.manifest().inputs);
}

void Stream::Impl::reserve(std::size_t count) {
  if (count * outputs_ <= score_.size()) return;
  score_.resize(count * outputs_);
  logit_hetero_.resize(count * kModalities * outputs_);
  edges_hetero_.resize(count * kEdges);
}

Status Stream::Impl::check_limit(std::size_t count) const {
  if (states_.goes_on() || count <= states_.room()) return {};
  return {StatusCode::kInvalidInput, "the stream heard " + std::to_string(states_.heard()) + " steps and takes " +
                                         std::to_string(states_.limit()) + ", the longest the model was trained at; " +
                                         std::to_string(count) +
                                         " more do not fit: reset it, or open it with past_limit='window'"};
}

Result<StepAnswer> Stream::Impl::push(const Steps& steps, const StepBuffers* targets) {
  const Clock::time_point start = Clock::now();
  Result<StepAnswer> answer = push_locked(steps, targets);
  if (!answer) return answer;
  answer->latency_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  report(*answer);  // outside the lock: the callback may ask the stream
  return answer;
}

void Stream::Impl::report(const StepAnswer& answer) const noexcept {
  const OutOfRangeCallback& callback = model_->on_out_of_range();
  if (!callback) return;
  std::array<RangeAlarm, kModalities> alarms;
  std::size_t count = 0;
  for (std::size_t i = 0; i < kModalities; ++i) {
    if (answer.out_of_range[i] > 0.0) alarms[count++] = {i, answer.out_of_range[i]};
  }
  if (count == 0) return;
  try {
    callback(View<const RangeAlarm>(alarms.data(), count));
  } catch (...) {  // whatever it throws: the answer must not be lost to a fault beside it
  }
}

Result<StepAnswer> Stream::Impl::push_locked(const Steps& steps, const StepBuffers* targets) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Arrival arrival;
  Status status = arrivals_.take(steps, arrival);
  if (status.ok()) status = check_limit(arrival.count);
  if (status.ok() && targets != nullptr) status = check_buffers(arrival.count, *targets);
  if (!status.ok()) return status;
  reserve(arrival.count);
  StepAnswer answer;
  answer.filled = arrival.filled;
  status = advance(arrival, answer);
  if (!status.ok()) return status;
  arrivals_.accept();
  if (answer.count > 0) answer.out_of_range = ranges_.shares(answer.steps);
  if (targets != nullptr) copy(*targets, answer);
  return answer;
}

Status Stream::Impl::advance(const Arrival& arrival, StepAnswer& answer) {
  StepRows rows = arrival.rows;
  std::size_t answered = 0;
  bool edges = false;
  for (std::size_t done = 0; done < arrival.count;) {
    StepOutputs found;
    std::size_t taken = 0;
    Status status = states_.advance(rows, arrival.count - done, taken, found);
    if (!status.ok()) {
      if (done == 0) return status;
      return {status.code(), "after " + std::to_string(done) + " of " + steps_text(arrival.count) +
                                 ", which the stream keeps: " + status.message()};
    }
    ranges_.hear(rows, taken);
    std::copy(found.score.begin(), found.score.end(), score_.data() + answered * outputs_);
    std::copy(found.logit_hetero.begin(), found.logit_hetero.end(), logit_hetero_.data() + answered * kModalities * outputs_);
    std::copy(found.edges_hetero.begin(), found.edges_hetero.end(), edges_hetero_.data() + answered * kEdges);
    edges = edges || !found.edges_hetero.empty();
    answered += found.count;
    done += taken;
    for (std::size_t i = 0; i < kModalities; ++i) rows[i] += taken * sizes_.widths[i];
  }
  answer.count = answered;
  answer.outputs = outputs_;
  answer.steps = states_.steps();
  answer.heard = states_.heard();
  answer.score = FloatView(score_.data(), answered * outputs_);
  answer.logit_hetero = FloatView(logit_hetero_.data(), answered * kModalities * outputs_);
  answer.edges_hetero = FloatView(edges_hetero_.data(), edges ? answered * kEdges : 0);
  return {};
}

// Whatever a push of this many steps may answer must fit, because the steps are taken before their answers are copied.
Status Stream::Impl::check_buffers(std::size_t count, const StepBuffers& targets) const {
  const auto check_one = [&](const char* name, const MutableFloatView& target, std::size_t each) -> Status {
    if (target.empty() || (target.data() != nullptr && target.size() >= count * each)) return {};
    return {StatusCode::kInvalidInput, std::string("buffer '") + name + "' has room for " + std::to_string(target.size()) +
                                           " values, expected " + std::to_string(count * each) + " or more for " +
                                           steps_text(count)};
  };
  Status status = check_one("score", targets.score, outputs_);
  if (status.ok()) status = check_one("logit_hetero", targets.logit_hetero, kModalities * outputs_);
  if (status.ok()) status = check_one("edges_hetero", targets.edges_hetero, kEdges);
  return status;
}

void Stream::Impl::copy(const StepBuffers& targets, StepAnswer& answer) {
  const auto copy_one = [](const MutableFloatView& target, FloatView& shown) {
    if (!target.empty()) std::copy(shown.begin(), shown.end(), target.begin());
    shown = target.empty() ? FloatView() : FloatView(target.data(), shown.size());
  };
  copy_one(targets.score, answer.score);
  copy_one(targets.logit_hetero, answer.logit_hetero);
  copy_one(targets.edges_hetero, answer.edges_hetero);
}

Status Stream::Impl::reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  states_.clear();
  arrivals_.clear();
  ranges_.clear();
  return {};
}

std::uint64_t Stream::Impl::heard() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return states_.heard();
}

std::vector<std::uint8_t> Stream::Impl::snapshot() {
  const std::lock_guard<std::mutex> lock(mutex_);
  SnapshotWriter writer(model_->sha256());
  writer.integer(states_.heard());
  writer.integer(states_.is_primed() ? 2 : 1);
  const auto write_state = [&](std::uint64_t start, StepState& state) {
    writer.integer(start);
    writer.integer(state.steps());
    const std::size_t kept = std::min(state.steps(), sizes_.kernel - 1);
    for (std::size_t i = 0; i < kModalities; ++i) writer.floats(state.recent(i), kept * sizes_.widths[i]);
    state.write_tensors(writer);
  };
  write_state(states_.start(), states_.state());
  if (states_.is_primed()) write_state(states_.next_start(), states_.next());
  writer.integer(states_.waiting());
  for (std::size_t i = 0; i < kModalities; ++i) {
    writer.floats(states_.waiting_rows(i), states_.waiting() * sizes_.widths[i]);
  }
  writer.clock(arrivals_.clock());
  return writer.finish();
}

Status Stream::Impl::restore(View<const std::uint8_t> bytes) {
  Snapshot held = parse_snapshot(bytes, model_->sha256(), sizes_);
  const std::lock_guard<std::mutex> lock(mutex_);
  const Snapshot::State& first = held.states[0];
  if (held.states.size() == 2) {
    const Snapshot::State& second = held.states[1];
    const bool whole = second.start + second.steps + held.waiting == held.heard;
    // A state whose successor begins before its own half was heard has been fed less than all of that.
    if (second.start != first.start + states_.begin() || (!whole && states_.overlap() <= states_.begin())) {
      return {StatusCode::kInvalidInput, "the snapshot is damaged: its counts of steps do not go together"};
    }
  } else if (states_.goes_on() && first.steps > states_.begin()) {
    return {StatusCode::kInvalidInput,
            "the snapshot is of a stream with past_limit='stop', which kept no steps for the window after it"};
  }
  states_.clear();
  ranges_.clear();
  set_state(first, states_.state());
  // A stream that stops has no use for the state that would follow.
  const bool primed = states_.goes_on() && held.states.size() == 2;
  if (primed) set_state(held.states[1], states_.next());
  for (std::size_t i = 0; i < kModalities && primed; ++i) read_floats(held.waiting_rows[i], states_.waiting_rows(i));
  states_.set(held.heard, primed ? held.waiting : 0);
  arrivals_.clock() = std::move(held.clock);
  return {};
}

void Stream::Impl::set_state(const Snapshot::State& from, StepState& state) const {
  for (std::size_t i = 0; i < kModalities; ++i) read_floats(from.recent[i], state.recent(i));
  state.read_tensors(from.tensors);
  state.set_steps(from.steps);
}

namespace {

// Runs one call of the public interface on what a Stream holds; a moved-from Stream holds nothing.
template <typename R, typename Held, typename Body>
R call(Held* held, Body&& body) noexcept {
  return guarded<R>([&]() -> R {
    if (held == nullptr) return Status(StatusCode::kInvalidInput, "this stream was moved from");
    return body(*held);
  });
}

const std::string kNoText;

}  // namespace

Stream::Stream(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

const std::string& Stream::graph() const noexcept { return impl_ ? impl_->model().graph() : kNoText; }
std::string Stream::backend() const { return impl_ ? impl_->model().backend() : std::string(); }
const std::string& Stream::note() const noexcept { return impl_ ? impl_->model().note() : kNoText; }
std::size_t Stream::limit() const noexcept { return impl_ ? impl_->limit() : 0; }
std::size_t Stream::unanswered() const noexcept { return impl_ ? impl_->model().manifest().stream->kernel - 1 : 0; }
std::uint64_t Stream::heard() const noexcept { return impl_ ? impl_->heard() : 0; }

Result<StepAnswer> Stream::push(const Steps& steps) noexcept {
  return call<Result<StepAnswer>>(impl_.get(), [&](Impl& impl) { return impl.push(steps, nullptr); });
}

Result<StepAnswer> Stream::push_into(const Steps& steps, const StepBuffers& buffers) noexcept {
  return call<Result<StepAnswer>>(impl_.get(), [&](Impl& impl) { return impl.push(steps, &buffers); });
}

Status Stream::reset() noexcept {
  return call<Status>(impl_.get(), [&](Impl& impl) { return impl.reset(); });
}

Result<std::vector<std::uint8_t>> Stream::snapshot() const noexcept {
  return call<Result<std::vector<std::uint8_t>>>(
      impl_.get(), [&](Impl& impl) -> Result<std::vector<std::uint8_t>> { return impl.snapshot(); });
}

Status Stream::restore(View<const std::uint8_t> bytes) noexcept {
  return call<Status>(impl_.get(), [&](Impl& impl) { return impl.restore(bytes); });
}

}  // namespace dmdkit
