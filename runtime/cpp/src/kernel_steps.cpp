#include "kernel_steps.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend_library.hpp"
#include "failure.hpp"
#include "finite.hpp"
#include "json_fields.hpp"
#include "session.hpp"
#include "snapshot.hpp"

namespace dmdkit {
namespace {

constexpr std::size_t kErrorBytes = 512;

void require(int code, const char* error) {
  if (code != DMDKIT_BACKEND_OK) throw backend_failure(code, error);
}

bool is(const dmdkit_backend_tensor& tensor, const std::string& name, const std::vector<std::int64_t>& shape) {
  return name == tensor.name && tensor.rank == shape.size() && std::equal(shape.begin(), shape.end(), tensor.shape);
}

}  // namespace

std::unique_ptr<StepKernels> StepKernels::open(const Bundle& bundle, const std::string& name, const Options& options) {
  const dmdkit_backend_vtable& table = load_backend(options.backend, options.backend_directory);
  if (!keeps_steps(table)) {
    throw Failure(StatusCode::kBackendUnavailable, in_quotes(options.backend) + ": this library keeps no state of streams");
  }
  const Manifest& manifest = bundle.manifest();
  const std::string fusion = "fusion." + manifest.find_graph(name)->precision;
  if (manifest.find_graph(fusion) == nullptr) {
    throw Failure(StatusCode::kGraphUnavailable, bundle.path() + ": no graph " + in_quotes(fusion) + " beside " + name);
  }
  std::unique_ptr<StepKernels> kernels(new StepKernels(table, name, open_steps_of(table, bundle, name, fusion, options)));
  kernels->check(manifest);
  return kernels;
}

StepKernels::~StepKernels() { table_.close(session_); }

void StepKernels::check(const Manifest& manifest) const {
  const StreamRecord& record = *manifest.stream;
  bool good = table_.input_count(session_) == kModalities + record.state.size() && table_.output_count(session_) >= 2;
  const auto check_one = [&](bool output, std::size_t index, const std::string& tensor,
                             const std::vector<std::int64_t>& shape) {
    dmdkit_backend_tensor found{};
    if (!good) return;
    (output ? table_.output : table_.input)(session_, index, &found);
    good = is(found, tensor, shape);
  };
  const auto size = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  for (std::size_t i = 0; i < kModalities; ++i) {
    check_one(false, i, manifest.inputs[i].info.name, {-1, size(manifest.inputs[i].info.features)});
  }
  for (std::size_t i = 0; i < record.state.size(); ++i) {
    const StateRecord& tensor = record.state[i];
    check_one(false, kModalities + i, tensor.name, {size(tensor.heads), size(tensor.width), size(record.capacity)});
  }
  const std::int64_t c = size(manifest.num_outputs);
  check_one(true, 0, "score", {-1, c});
  check_one(true, 1, "logit_hetero", {-1, size(kModalities), c});
  if (good && has_edges()) check_one(true, 2, "edges_hetero", {-1, size(kEdges)});
  if (good) return;
  throw Failure(StatusCode::kBundleDamaged,
                name_ + ": its state or its sizes are not what the manifest says; export the bundle again");
}

std::unique_ptr<StepKernels> StepKernels::share() const {
  char error[kErrorBytes] = "";
  dmdkit_backend_session* other = nullptr;
  require(table_.share(session_, &other, error, sizeof error), error);
  return std::unique_ptr<StepKernels>(new StepKernels(table_, name_, other));
}

Status StepKernels::step(std::size_t place, std::size_t count, const float* const* rows, float* const* outputs) noexcept {
  char error[kErrorBytes] = "";
  const int code = table_.step(session_, place, count, rows, outputs, error, sizeof error);
  if (code == DMDKIT_BACKEND_OK) return {};
  return guarded<Status>([&]() -> Status { throw backend_failure(code, error); });
}

void StepKernels::read(std::size_t tensor, std::size_t steps, float* values) const {
  char error[kErrorBytes] = "";
  require(table_.read_state(session_, tensor, steps, values, error, sizeof error), error);
}

void StepKernels::write(std::size_t tensor, std::size_t steps, const float* values) {
  char error[kErrorBytes] = "";
  require(table_.write_state(session_, tensor, steps, values, error, sizeof error), error);
}

KernelStepState::KernelStepState(std::unique_ptr<StepKernels> kernels, const Manifest& manifest)
    : StepState(manifest), kernels_(std::move(kernels)), outputs_(manifest.num_outputs), edges_(kernels_->has_edges()) {
  reserve(1);
}

void KernelStepState::reserve(std::size_t count) {
  if (count <= room_) return;
  for (std::size_t i = 0; i < kModalities; ++i) rows_[i].resize((kept_ + count) * widths_[i]);
  score_.resize(count * outputs_);
  logit_hetero_.resize(count * kModalities * outputs_);
  if (edges_) edges_hetero_.resize(count * kEdges);
  room_ = count;
}

Status KernelStepState::run(const StepRows& rows, std::size_t count, StepOutputs& outputs) {
  outputs = StepOutputs();
  reserve(count);
  run_steps_ = count;
  const std::size_t before = std::min(kept_, steps_);
  StepRows all{};
  for (std::size_t i = 0; i < kModalities; ++i) {
    std::memcpy(rows_[i].data() + before * widths_[i], rows[i], count * widths_[i] * sizeof(float));
    all[i] = rows_[i].data();
  }
  if (before + count <= kept_) return {};
  const std::size_t found = before + count - kept_;
  float* const targets[] = {score_.data(), logit_hetero_.data(), edges_ ? edges_hetero_.data() : nullptr};
  Status status = kernels_->step(projected(), found, all.data(), targets);
  if (!status.ok()) return status;
  outputs = {found, FloatView(score_.data(), found * outputs_), FloatView(logit_hetero_.data(), found * kModalities * outputs_),
             edges_ ? FloatView(edges_hetero_.data(), found * kEdges) : FloatView()};
  // Every key and value takes part in its own step's answer.
  if (all_finite(outputs.score) && all_finite(outputs.logit_hetero) && all_finite(outputs.edges_hetero)) return {};
  return not_finite(kernels_->name());
}

void KernelStepState::commit() noexcept {
  const std::size_t before = std::min(kept_, steps_);
  const std::size_t after = std::min(kept_, before + run_steps_);
  for (std::size_t i = 0; i < kModalities; ++i) {
    float* rows = rows_[i].data();
    std::memmove(rows, rows + (before + run_steps_ - after) * widths_[i], after * widths_[i] * sizeof(float));
  }
  steps_ += run_steps_;
  run_steps_ = 0;
}

void KernelStepState::write_tensors(SnapshotWriter& to) {
  std::vector<float> values;
  for (std::size_t i = 0; i < record_.state.size(); ++i) {
    values.resize(projected() * record_.state[i].heads * record_.state[i].width);
    kernels_->read(i, projected(), values.data());
    to.floats(values.data(), values.size());
  }
}

void KernelStepState::read_tensors(const std::vector<View<const std::uint8_t>>& from) {
  std::vector<float> values;
  for (std::size_t i = 0; i < record_.state.size(); ++i) {
    const std::size_t channels = record_.state[i].heads * record_.state[i].width;
    values.resize(from[i].size() / sizeof(float));
    read_floats(from[i], values.data());
    kernels_->write(i, values.size() / channels, values.data());
  }
}

}  // namespace dmdkit
