#include "graph_steps.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"
#include "snapshot.hpp"

namespace dmdkit {
namespace {

// Larger counts are not all float32 values, in which the graph's `steps` is handed over.
constexpr std::size_t kMaxCapacity = std::size_t{1} << 24;

}  // namespace

GraphStepState::GraphStepState(std::unique_ptr<Session> session, const Manifest& manifest)
    : StepState(manifest), session_(std::move(session)) {
  if (record_.capacity > kMaxCapacity) check_place("steps", nullptr, false);
  std::size_t inputs = kModalities + 1 + record_.state.size();
  for (std::size_t i = 0; i < kModalities; ++i) {
    const InputInfo& info = manifest.inputs[i].info;
    new_[i] = input(info.name, {widths_[i]}, true);
    if (kept_ == 0) continue;
    recent_[i] = input("recent_" + info.name, {kept_, widths_[i]}, false);
    ++inputs;
  }
  place_ = input("steps", {1}, false);
  for (const StateRecord& tensor : record_.state) {
    tensors_.push_back({input(tensor.name, {tensor.heads, tensor.width, record_.capacity}, false),
                        output("new_" + tensor.name, {tensor.heads, tensor.width}, 2), tensor.heads * tensor.width});
  }
  const std::size_t c = manifest.num_outputs;
  score_ = output("score", {c}, 0);
  logit_hetero_ = output("logit_hetero", {kModalities, c}, 0);
  if (session_->find_output("edges_hetero") != nullptr) edges_hetero_ = output("edges_hetero", {kEdges}, 0);
  if (session_->inputs().size() != inputs) check_place(session_->inputs().back().name, nullptr, false);
  session_->bind(1);
}

void GraphStepState::check_place(const std::string& name, const Port* port, bool good) const {
  if (port != nullptr && good) return;
  throw Failure(StatusCode::kBundleDamaged,
                session_->name() + ": " + in_quotes(name) +
                    " is missing or has other sizes than the manifest says; export the bundle again");
}

const Port* GraphStepState::input(const std::string& name, const std::vector<std::size_t>& sizes, bool counted) const {
  const Port* port = session_->find_input(name);
  check_place(name, port, port != nullptr && port->sizes == sizes && port->counted == counted && port->axis == 0);
  return port;
}

const Port* GraphStepState::output(const std::string& name, const std::vector<std::size_t>& sizes, std::size_t axis) const {
  const Port* port = session_->find_output(name);
  check_place(name, port, port != nullptr && port->sizes == sizes && port->counted && port->axis == axis);
  return port;
}

Status GraphStepState::run(const StepRows& rows, std::size_t count, StepOutputs& outputs) {
  outputs = StepOutputs();
  run_steps_ = count;
  // Rows that fill the kernel up lie where none counts yet, so that they are taken only by commit.
  const std::size_t filling = std::min(kept_ - std::min(kept_, steps_), count);
  for (std::size_t i = 0; i < kModalities && filling > 0; ++i) {
    std::memcpy(recent_[i]->buffer + steps_ * widths_[i], rows[i], filling * widths_[i] * sizeof(float));
  }
  run_count_ = count - filling;
  if (run_count_ == 0) return {};
  session_->bind(run_count_);
  for (std::size_t i = 0; i < kModalities; ++i) {
    std::memcpy(new_[i]->buffer, rows[i] + filling * widths_[i], run_count_ * widths_[i] * sizeof(float));
  }
  place_->buffer[0] = static_cast<float>(projected());
  Status status = session_->run();
  if (!status.ok()) return status;
  const auto all = [&](const Port* port) {
    return port != nullptr ? FloatView(port->buffer, run_count_ * port->values) : FloatView();
  };
  outputs = {run_count_, all(score_), all(logit_hetero_), all(edges_hetero_)};
  bool finite = all_finite(outputs.score) && all_finite(outputs.logit_hetero) && all_finite(outputs.edges_hetero);
  for (const Tensor& tensor : tensors_) finite = finite && all_finite(all(tensor.fresh));
  if (finite) return {};
  return not_finite(session_->name());
}

void GraphStepState::commit() noexcept {
  const std::size_t place = steps_ + (run_steps_ - run_count_) - kept_;  // used only where the graph ran
  for (std::size_t t = 0; t < tensors_.size() && run_count_ > 0; ++t) {
    const Tensor& tensor = tensors_[t];
    float* column = tensor.past->buffer + place;
    const float* fresh = tensor.fresh->buffer;
    for (std::size_t channel = 0; channel < tensor.channels; ++channel) {
      std::copy(fresh, fresh + run_count_, column);
      column += record_.capacity;
      fresh += run_count_;
    }
  }
  const std::size_t shifted = std::min(kept_, run_count_);
  for (std::size_t i = 0; i < kModalities && shifted > 0; ++i) {
    float* recent = recent_[i]->buffer;
    const std::size_t width = widths_[i];
    std::memmove(recent, recent + shifted * width, (kept_ - shifted) * width * sizeof(float));
    std::memcpy(recent + (kept_ - shifted) * width, new_[i]->buffer + (run_count_ - shifted) * width,
                shifted * width * sizeof(float));
  }
  steps_ += run_steps_;
  run_steps_ = run_count_ = 0;
}

void GraphStepState::write_tensors(SnapshotWriter& to) {
  for (const Tensor& tensor : tensors_) to.columns(tensor.past->buffer, tensor.channels, record_.capacity, projected());
}

void GraphStepState::read_tensors(const std::vector<View<const std::uint8_t>>& from) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    read_columns(from[i], tensors_[i].channels, record_.capacity, tensors_[i].past->buffer);
  }
}

}  // namespace dmdkit
