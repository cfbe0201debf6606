// An opened step graph that streams share.
#ifndef DMDKIT_SRC_STEP_MODEL_HPP_
#define DMDKIT_SRC_STEP_MODEL_HPP_

#include <memory>
#include <mutex>
#include <string>

#include "bundle.hpp"
#include "dmdkit/types.hpp"
#include "session.hpp"

namespace dmdkit {

class StepModel {
 public:
  // Opens step graph `name` of `bundle`. Throws Failure.
  StepModel(const Bundle& bundle, const std::string& name, const Options& options);

  const std::string& graph() const noexcept { return first_->name(); }
  // Of the graph's file: which bundle and precision a state is of.
  const std::string& sha256() const noexcept { return sha256_; }
  // What a stream's answers mean where that needs saying, in a sentence; empty where not.
  const std::string& note() const noexcept { return note_; }
  const Manifest& manifest() const noexcept { return bundle_.manifest(); }
  const OutOfRangeCallback& on_out_of_range() const noexcept { return options_.on_out_of_range; }

  // A session for one state; from any thread. Throws Failure.
  std::unique_ptr<Session> session();

 private:
  Bundle bundle_;
  Options options_;
  std::string sha256_;
  std::string note_;
  std::mutex mutex_;
  std::unique_ptr<Session> first_;  // never run: holds the weights
};

// The step graph that goes with a predicting graph of this precision: where that was asked for by name, the same or else fp32,
// whatever its verdict; otherwise the first of them that passed parity. Throws Failure.
std::string choose_step_graph(const Bundle& bundle, const std::string& predicting, bool asked_for);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_STEP_MODEL_HPP_
