#include "dmdkit/runtime.hpp"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "answers.hpp"
#include "bundle.hpp"
#include "engines.hpp"
#include "failure.hpp"
#include "inputs.hpp"
#include "json_fields.hpp"
#include "latency.hpp"
#include "real_steps.hpp"
#include "self_check.hpp"
#include "session.hpp"
#include "stream_impl.hpp"
#include "text/text_stage.hpp"
#include "wiring.hpp"

namespace dmdkit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kNanosecondsPerMs = 1e6;
// More than any machine we build for has; a backend would try to start as many as it is told.
constexpr int kMaxThreads = 1024;

// What a moved-from Runtime shows of itself.
struct Nothing {
  std::array<InputInfo, kModalities> inputs;
  std::array<std::string, kModalities> modality_order;
  std::array<std::string, kEdges> edge_order;
  std::string text;
  TaskInfo task;
  std::vector<std::string> notes;
};
const Nothing kNothing;

// Runs one call of the public interface on what a Runtime holds; a moved-from Runtime holds nothing.
template <typename R, typename Held, typename Body>
R call(Held* held, Body&& body) noexcept {
  return guarded<R>([&]() -> R {
    if (held == nullptr) return Status(StatusCode::kInvalidInput, "this runtime was moved from");
    return body(*held);
  });
}

Bundle open_bundle(const std::string& path, const Options& options) {
  if (options.threads < 1) {
    throw Failure(StatusCode::kInvalidInput, "threads=" + std::to_string(options.threads) + ": expected 1 or more");
  }
  if (options.threads > kMaxThreads) {
    throw Failure(StatusCode::kInvalidInput,
                  "threads=" + std::to_string(options.threads) + ": expected at most " + std::to_string(kMaxThreads));
  }
  if (options.device != "auto" && options.device != "cpu" && options.device != "cuda") {
    throw Failure(StatusCode::kInvalidInput, "device=" + in_quotes(options.device) + ": expected auto, cpu or cuda");
  }
  return Bundle::open(path);
}

}  // namespace

class Runtime::Impl {
 public:
  Impl(const std::string& path, const Options& options)
      : options_(options),
        bundle_(open_bundle(path, options)),
        guard_(manifest().inputs),
        session_(open_session(bundle_, "fusion", options.graph, options)),
        wiring_(wire(*session_, manifest(), false)) {
    for (std::size_t i = 0; i < kModalities; ++i) infos_[i] = manifest().inputs[i].info;
    session_->bind(1);
    backend_ = session_->backend();
    if (options.preload_explain) explainer();
  }

  const Manifest& manifest() const noexcept { return bundle_.manifest(); }

  Result<Prediction> predict(const Inputs& inputs, const MutableFloatView* target) {
    const Clock::time_point start = Clock::now();
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Prediction prediction;
    Status status = not_in_callback();
    if (status.ok()) status = feed(inputs, *session_, wiring_, prediction.out_of_range, prediction.truncated);
    if (status.ok() && target != nullptr) status = check_room("score", *target, inputs.batch * wiring_.score->values);
    if (status.ok()) status = session_->run();
    if (!status.ok()) return status;
    prediction.batch = inputs.batch;
    prediction.outputs = wiring_.score->values;
    prediction.score = FloatView(wiring_.score->buffer, inputs.batch * wiring_.score->values);
    status = check_finite(*session_, "score", prediction.score);
    if (!status.ok()) return status;
    if (target != nullptr) {
      std::copy(prediction.score.begin(), prediction.score.end(), target->begin());
      prediction.score = FloatView(target->data(), prediction.score.size());
    }
    const auto nanoseconds =
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    latencies_.add(nanoseconds);
    prediction.latency_ms = static_cast<double>(nanoseconds) / kNanosecondsPerMs;
    prediction.deadline_missed = options_.deadline_us > 0 && nanoseconds / 1000U >= options_.deadline_us &&
                                 nanoseconds != options_.deadline_us * 1000U;  // no product that could overflow decides
    deadline_misses_ += prediction.deadline_missed ? 1 : 0;
    return prediction;
  }

  Result<Explanation> explain(const Inputs& inputs, const ExplanationBuffers* targets) {
    const Clock::time_point start = Clock::now();
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Status status = not_in_callback();
    if (status.ok()) status = check(inputs);  // before the graph is opened for nothing
    if (!status.ok()) return status;
    Session& session = explainer();
    std::array<double, kModalities> shares{};
    std::size_t truncated = 0;
    status = feed(inputs, session, explain_wiring_, shares, truncated);
    if (status.ok()) status = session.run();
    if (!status.ok()) return status;
    Explanation explanation;
    explanation.batch = inputs.batch;
    explanation.outputs = explain_wiring_.score->values;
    const ExplanationBuffers to = targets != nullptr ? *targets : ExplanationBuffers();
    const auto shows = [&](const char* name, const Port* port, MutableFloatView target, FloatView& shown) {
      if (status.ok()) status = show(session, name, port, targets != nullptr, target, inputs.batch, shown);
    };
    shows("score", explain_wiring_.score, to.score, explanation.score);
    shows("logit_homo", explain_wiring_.logit_homo, to.logit_homo, explanation.logit_homo);
    shows("logit_hetero", explain_wiring_.logit_hetero, to.logit_hetero, explanation.logit_hetero);
    shows("edges_homo", explain_wiring_.edges_homo, to.edges_homo, explanation.edges_homo);
    shows("edges_hetero", explain_wiring_.edges_hetero, to.edges_hetero, explanation.edges_hetero);
    if (!status.ok()) return status;
    explanation.latency_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    return explanation;
  }

  Result<SelfCheck> self_check(bool every_graph) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Status status = not_in_callback();
    if (!status.ok()) return status;
    const Golden golden = bundle_.golden();
    SelfCheck result;
    result.samples = manifest().golden_samples;
    result.passed = true;
    std::vector<std::string> names = {session_->name()};
    if (every_graph) {
      names.clear();
      for (const auto& entry : manifest().graphs) {
        // No engine reads words here, so every text graph can be opened.
        if (entry.second.kind == "text" || can_open(entry.first)) names.push_back(entry.first);
      }
    } else if (has_explain_graph(manifest(), session_->name(), is_named()) && can_open(explain_name())) {
      names.push_back(explainer().name());
    }
    if (!every_graph && text_stage_) names.push_back(text_stage_->graph());
    for (const std::string& name : names) {
      result.graphs.push_back(check_graph(bundle_, golden, name, options_));
      result.passed = result.passed && result.graphs.back().passed;
    }
    return result;
  }

  std::shared_ptr<StepModel> step_model() {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    if (!step_model_) {
      const std::string& predicting = manifest().find_graph(session_->name())->precision;
      step_model_ = std::make_shared<StepModel>(bundle_, predicting, !options_.graph.empty(), options_);
    }
    return step_model_;
  }

  Stats stats() const {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Stats stats;
    stats.count = latencies_.count();
    stats.p50_ms = static_cast<double>(latencies_.quantile(0.50)) / kNanosecondsPerMs;
    stats.p90_ms = static_cast<double>(latencies_.quantile(0.90)) / kNanosecondsPerMs;
    stats.p99_ms = static_cast<double>(latencies_.quantile(0.99)) / kNanosecondsPerMs;
    stats.max_ms = static_cast<double>(latencies_.max()) / kNanosecondsPerMs;
    stats.deadline_misses = deadline_misses_;
    stats.out_of_range = out_of_range_;
    stats.callback_failures = callback_failures_;
    stats.truncated = truncated_;
    return stats;
  }

  void reset_stats() {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    latencies_ = LatencyHistogram();
    deadline_misses_ = 0;
    out_of_range_ = 0;
    callback_failures_ = 0;
    truncated_ = 0;
  }

  const std::string& text_graph() const {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    return text_stage_ ? text_stage_->graph() : kNothing.text;
  }

  const std::string& text_backend() const {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    return text_stage_ ? text_stage_->backend() : kNothing.text;
  }

  const std::array<InputInfo, kModalities>& infos() const noexcept { return infos_; }
  const std::string& graph() const noexcept { return session_->name(); }
  const std::string& backend() const noexcept { return backend_; }
  std::size_t outputs() const noexcept { return wiring_.score->values; }
  bool has_edges() const noexcept { return manifest().find_graph("gd_homo.fp32") != nullptr; }

 private:
  Status check(const Inputs& inputs) const { return check_inputs(inputs, manifest().inputs, manifest().text.has_value()); }

  // The encoder, opened with the first words.
  text::TextStage& text_stage() {
    if (!text_stage_) {
      const std::string graph = text::text_graph(manifest(), session_->name(), !options_.graph.empty());
      text_stage_ = std::make_unique<text::TextStage>(bundle_, graph, options_);
    }
    return *text_stage_;
  }

  // Checks the inputs, notes their range and copies them to the session's buffers, words as the encoder's features. Features
  // allocate only for a new batch size.
  Status feed(const Inputs& inputs, Session& session, const Wiring& wiring, std::array<double, kModalities>& shares,
              std::size_t& truncated) {
    Status status = check(inputs);
    if (!status.ok()) return status;
    session.bind(inputs.batch);
    std::array<float*, kModalities> buffers;
    for (std::size_t i = 0; i < kModalities; ++i) buffers[i] = wiring.inputs[i]->buffer;
    copy_inputs(inputs, manifest().inputs, buffers);
    if (has_words(inputs)) {
      truncated = text_stage().encode(inputs, buffers[0]);
      truncated_ += truncated;
    }
    if (wiring.steps != nullptr) {
      move_own_steps_in_front(buffers, manifest().inputs, inputs.batch);
      status = count_steps({buffers[0], buffers[1], buffers[2]}, manifest().inputs, inputs.batch, manifest().kernel,
                           wiring.steps->buffer);
    }
    if (!status.ok()) return status;
    std::array<RangeAlarm, kModalities> alarms;
    std::size_t count = 0;
    // What the bundle's own encoder made of words is what training saw.
    for (std::size_t i = has_words(inputs) ? 1 : 0; i < kModalities; ++i) {
      const double share = guard_.alarm(i, buffers[i], inputs.batch);
      if (share == 0.0) continue;
      shares[i] = share;
      alarms[count++] = {i, share};
    }
    if (count == 0) return {};
    ++out_of_range_;
    if (!options_.on_out_of_range) return {};
    const CallbackRunning running(in_callback_);
    try {
      options_.on_out_of_range(View<const RangeAlarm>(alarms.data(), count));
    } catch (...) {  // whatever it throws: the answer must not be lost to a fault beside it
      ++callback_failures_;
    }
    return {};
  }

  // One output of explain, as a view of the session's buffer or copied to the caller's.
  static Status show(const Session& session, const char* name, const Port* port, bool copies, MutableFloatView target,
                     std::size_t batch, FloatView& shown) {
    if (port == nullptr || (copies && target.empty())) return {};
    shown = FloatView(port->buffer, batch * port->values);
    Status status = check_finite(session, name, shown);
    if (!status.ok() || !copies) return status;
    status = check_room(name, target, shown.size());
    if (!status.ok()) return status;
    std::copy(shown.begin(), shown.end(), target.begin());
    shown = FloatView(target.data(), target.size());
    return {};
  }

  bool is_named() const { return !options_.graph.empty(); }
  const std::string& explain_name() const { return explain_graph(manifest(), session_->name(), is_named()); }

  // A backend of engines cannot open a graph that has none.
  bool can_open(const std::string& graph) const {
    std::vector<std::string> refused;
    return !session_->runs_engine() || !engines_of(bundle_, graph, refused).empty();
  }

  Session& explainer() {
    if (!explain_session_) {
      auto session = std::make_unique<Session>(bundle_, explain_name(), options_);
      explain_wiring_ = wire(*session, manifest(), true);
      session->bind(1);
      explain_session_ = std::move(session);
    }
    return *explain_session_;
  }

  // True while the application's callback runs, whatever way it ends.
  class CallbackRunning {
   public:
    explicit CallbackRunning(bool& flag) : flag_(flag) { flag_ = true; }
    CallbackRunning(const CallbackRunning&) = delete;
    CallbackRunning& operator=(const CallbackRunning&) = delete;
    ~CallbackRunning() { flag_ = false; }

   private:
    bool& flag_;
  };

  Status not_in_callback() const {
    if (!in_callback_) return {};
    return {StatusCode::kInvalidInput, "the out-of-range callback may not predict, explain or check the same runtime"};
  }

  Options options_;
  Bundle bundle_;
  RangeGuard guard_;
  std::unique_ptr<Session> session_;
  Wiring wiring_;
  std::string backend_;
  std::array<InputInfo, kModalities> infos_;
  std::unique_ptr<Session> explain_session_;
  Wiring explain_wiring_;
  std::unique_ptr<text::TextStage> text_stage_;
  std::shared_ptr<StepModel> step_model_;
  // Recursive, so that the callback may ask for the stats; what would run a graph is refused there.
  mutable std::recursive_mutex mutex_;
  bool in_callback_ = false;
  LatencyHistogram latencies_;
  std::uint64_t deadline_misses_ = 0;
  std::uint64_t out_of_range_ = 0;
  std::uint64_t callback_failures_ = 0;
  std::uint64_t truncated_ = 0;
};

Result<Runtime> Runtime::open(const std::string& path, const Options& options) noexcept {
  return guarded<Result<Runtime>>([&]() -> Result<Runtime> { return Runtime(std::make_unique<Impl>(path, options)); });
}

Runtime::Runtime(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Runtime::Runtime(Runtime&&) noexcept = default;
Runtime& Runtime::operator=(Runtime&&) noexcept = default;
Runtime::~Runtime() = default;

const std::array<InputInfo, kModalities>& Runtime::inputs() const noexcept { return impl_ ? impl_->infos() : kNothing.inputs; }
std::size_t Runtime::outputs() const noexcept { return impl_ ? impl_->outputs() : 0; }
const TaskInfo& Runtime::task() const noexcept { return impl_ ? impl_->manifest().task : kNothing.task; }
bool Runtime::has_edges() const noexcept { return impl_ && impl_->has_edges(); }
const std::string& Runtime::graph() const noexcept { return impl_ ? impl_->graph() : kNothing.text; }
const std::string& Runtime::backend() const noexcept { return impl_ ? impl_->backend() : kNothing.text; }
const std::string& Runtime::name() const noexcept { return impl_ ? impl_->manifest().name : kNothing.text; }
bool Runtime::has_text_encoder() const noexcept { return impl_ && impl_->manifest().text.has_value(); }
const std::string& Runtime::text_graph() const noexcept { return impl_ ? impl_->text_graph() : kNothing.text; }
const std::string& Runtime::text_backend() const noexcept { return impl_ ? impl_->text_backend() : kNothing.text; }
const std::vector<std::string>& Runtime::notes() const noexcept { return impl_ ? impl_->manifest().notes : kNothing.notes; }
const std::array<std::string, kModalities>& Runtime::modality_order() const noexcept {
  return impl_ ? impl_->manifest().modality_order : kNothing.modality_order;
}
const std::array<std::string, kEdges>& Runtime::edge_order() const noexcept {
  return impl_ ? impl_->manifest().edge_order : kNothing.edge_order;
}

Result<Prediction> Runtime::predict(const Inputs& inputs) noexcept {
  return call<Result<Prediction>>(impl_.get(), [&](Impl& impl) { return impl.predict(inputs, nullptr); });
}

Result<Prediction> Runtime::predict_into(const Inputs& inputs, MutableFloatView score) noexcept {
  return call<Result<Prediction>>(impl_.get(), [&](Impl& impl) { return impl.predict(inputs, &score); });
}

Result<Explanation> Runtime::explain(const Inputs& inputs) noexcept {
  return call<Result<Explanation>>(impl_.get(), [&](Impl& impl) { return impl.explain(inputs, nullptr); });
}

Result<Explanation> Runtime::explain_into(const Inputs& inputs, const ExplanationBuffers& buffers) noexcept {
  return call<Result<Explanation>>(impl_.get(), [&](Impl& impl) { return impl.explain(inputs, &buffers); });
}

Result<Stream> Runtime::stream(const StreamOptions& options) noexcept {
  return call<Result<Stream>>(impl_.get(), [&](Impl& impl) -> Result<Stream> {
    return Stream(std::make_unique<Stream::Impl>(impl.step_model(), options));
  });
}

Result<SelfCheck> Runtime::self_check(bool every_graph) noexcept {
  return call<Result<SelfCheck>>(impl_.get(), [&](Impl& impl) { return impl.self_check(every_graph); });
}

Stats Runtime::stats() const noexcept { return impl_ ? impl_->stats() : Stats(); }
void Runtime::reset_stats() noexcept {
  if (impl_) impl_->reset_stats();
}

}  // namespace dmdkit
