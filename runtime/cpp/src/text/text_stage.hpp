// A bundle's text encoder: sentences or token ids in, the features of the input `text` out. May throw Failure.
#ifndef DMDKIT_SRC_TEXT_TEXT_STAGE_HPP_
#define DMDKIT_SRC_TEXT_TEXT_STAGE_HPP_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "dmdkit/types.hpp"
#include "rows.hpp"
#include "token_session.hpp"
#include "tokenizer.hpp"

namespace dmdkit::text {

class TextStage {
 public:
  // `bundle` must outlive it; its tokenizer is read when the first sentence comes, as token ids need none.
  TextStage(const Bundle& bundle, const std::string& graph, const Options& options);

  const std::string& graph() const noexcept { return session_.name(); }
  const std::string& backend() const noexcept { return session_.backend(); }

  // Writes the features of inputs.words or inputs.token_ids, (batch, T, D), to `features`; how many sentences were cut.
  std::size_t encode(const Inputs& inputs, float* features);

 private:
  std::vector<Ids> rows_of(const Inputs& inputs, std::size_t& truncated);
  void run(const std::vector<Ids>& rows, const std::vector<std::size_t>& places, std::size_t length, float* features);

  const Bundle& bundle_;
  const TextRecord& record_;
  TokenSession session_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

// The text graph that goes with `predicting`: of its precision or else fp32 where that was asked for by name, otherwise the
// preferred one that passed parity.
std::string text_graph(const Manifest& manifest, const std::string& predicting, bool asked_for);

}  // namespace dmdkit::text

#endif  // DMDKIT_SRC_TEXT_TEXT_STAGE_HPP_
