#include "step_model.hpp"

#include "failure.hpp"

namespace dmdkit {

namespace {

constexpr char kPaddedNote[] =
    "streams: the model was trained on padded windows, and a stream computes it on the steps there are, so its answers are not "
    "those of a padded window; `dmdkit check` says by how much, and data.steps=real trains a model for streams";

}  // namespace

std::string choose_step_graph(const Bundle& bundle, const std::string& predicting, bool asked_for) {
  const Manifest& manifest = bundle.manifest();
  if (!manifest.stream) {
    throw Failure(StatusCode::kGraphUnavailable,
                  bundle.path() + ": has no step graph, so it cannot stream; export it again with `dmdkit export --stream`");
  }
  for (const std::string& precision : {predicting, std::string("fp32")}) {
    const GraphRecord* record = manifest.find_graph("stream." + precision);
    if (record != nullptr && (asked_for || record->verdict == "passed")) return "stream." + precision;
  }
  std::string said;
  for (const auto& [name, record] : manifest.stream->graphs) said += (said.empty() ? "" : ", ") + name + " " + record.verdict;
  throw Failure(StatusCode::kGraphUnavailable,
                "no step graph of this bundle has passed parity (" + (said.empty() ? "it has none" : said) +
                    "); prove one with `dmdkit check`, or name a precision yourself when opening "
                    "(graph='fp32')");
}

StepModel::StepModel(const Bundle& bundle, const std::string& name, const Options& options)
    : bundle_(bundle),
      options_(options),
      sha256_(manifest().files.at(manifest().find_graph(name)->file).sha256),
      note_(manifest().real_steps ? "" : kPaddedNote),
      first_(std::make_unique<Session>(bundle_, name, options)) {}

std::unique_ptr<Session> StepModel::session() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Session> shared = first_->share();
  return shared ? std::move(shared) : std::make_unique<Session>(bundle_, first_->name(), options_);
}

}  // namespace dmdkit
