#include "step_model.hpp"

#include <utility>

#include "failure.hpp"
#include "graph_steps.hpp"

namespace dmdkit {

namespace {

constexpr char kPaddedNote[] =
    "streams: the model was trained on padded windows, and a stream computes it on the steps there are, so its answers are not "
    "those of a padded window; `dmdkit check` says by how much, and data.steps=real trains a model for streams";

// The first step graph of these precisions that `usable` accepts; empty: none.
template <typename Usable>
std::string first_of(const Manifest& manifest, const std::string& predicting, Usable&& usable) {
  for (const std::string& precision : {predicting, std::string("fp32")}) {
    const GraphRecord* record = manifest.find_graph("stream." + precision);
    if (record != nullptr && usable(*record)) return "stream." + precision;
  }
  return "";
}

std::string choose_step_graph(const Bundle& bundle, const std::string& predicting, bool asked_for) {
  const Manifest& manifest = bundle.manifest();
  const std::string found =
      first_of(manifest, predicting, [&](const GraphRecord& record) { return asked_for || record.verdict == "passed"; });
  if (!found.empty()) return found;
  std::string said;
  for (const auto& [name, record] : manifest.stream->graphs) said += (said.empty() ? "" : ", ") + name + " " + record.verdict;
  throw Failure(StatusCode::kGraphUnavailable,
                "no step graph of this bundle has passed parity (" + (said.empty() ? "it has none" : said) +
                    "); prove one with `dmdkit check`, or name a precision yourself when opening "
                    "(graph='fp32')");
}

}  // namespace

StepModel::StepModel(const Bundle& bundle, const std::string& predicting, bool asked_for, const Options& options)
    : bundle_(bundle), options_(options), note_(manifest().real_steps ? "" : kPaddedNote) {
  if (!manifest().stream) {
    throw Failure(StatusCode::kGraphUnavailable,
                  bundle.path() + ": has no step graph, so it cannot stream; export it again with `dmdkit export --stream`");
  }
  if (options.backend == "native") open_kernels(predicting, asked_for);
  if (!kernels_) {
    name_ = choose_step_graph(bundle_, predicting, asked_for);
    first_ = std::make_unique<Session>(bundle_, name_, options);
  }
  sha256_ = manifest().files.at(manifest().find_graph(name_)->file).sha256;
}

// Leaves kernels_ empty, and says why in the note, where they cannot.
void StepModel::open_kernels(const std::string& predicting, bool asked_for) {
  name_ = first_of(manifest(), predicting,
                   [&](const GraphRecord& record) { return asked_for || passed_on_native(record, options_); });
  if (name_.empty()) return;
  try {
    kernels_ = StepKernels::open(bundle_, name_, options_);
  } catch (const Failure& cause) {
    note_ += (note_.empty() ? "" : "; ") + std::string("streams: ") + cause.what() + "; using onnxruntime";
  }
}

std::unique_ptr<StepState> StepModel::state() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (kernels_) return std::make_unique<KernelStepState>(kernels_->share(), manifest());
  std::unique_ptr<Session> shared = first_->share();
  if (!shared) shared = std::make_unique<Session>(bundle_, name_, options_);
  return std::make_unique<GraphStepState>(std::move(shared), manifest());
}

}  // namespace dmdkit
