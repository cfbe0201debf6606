#include "text_stage.hpp"

#include <algorithm>
#include <numeric>

#include "failure.hpp"

namespace dmdkit::text {

std::string text_graph(const Manifest& manifest, const std::string& predicting, bool asked_for) {
  if (!asked_for) return choose_graph(manifest, "text", "");
  const std::string same = "text." + manifest.find_graph(predicting)->precision;
  return manifest.find_graph(same) != nullptr ? same : "text.fp32";
}

TextStage::TextStage(const Bundle& bundle, const std::string& graph, const Options& options)
    : bundle_(bundle), record_(*bundle.manifest().text), session_(bundle, graph, options) {}

std::vector<Ids> TextStage::rows_of(const Inputs& inputs, std::size_t& truncated) {
  std::vector<Ids> rows;
  rows.reserve(inputs.batch);
  truncated = 0;
  if (inputs.token_ids) {
    for (const View<const std::int64_t>& ids : *inputs.token_ids) rows.push_back(without_padding(ids, record_.pad_id));
  } else {
    if (!tokenizer_) {
      const Bytes data = bundle_.read(record_.tokenizer);
      tokenizer_ = std::make_unique<Tokenizer>(data.data(), data.size(), bundle_.path() + "/" + record_.tokenizer,
                                               record_.vocabulary_size, record_.max_tokens);
    }
    for (std::size_t index = 0; index < inputs.batch; ++index) {
      Tokens tokens = (*tokenizer_)((*inputs.words)[index], index);
      truncated += tokens.truncated ? 1 : 0;
      rows.push_back(std::move(tokens.ids));
    }
  }
  for (std::size_t index = 0; index < rows.size(); ++index) check_ids(rows[index], index, record_);
  return rows;
}

void TextStage::run(const std::vector<Ids>& rows, const std::vector<std::size_t>& places, std::size_t length, float* features) {
  session_.resize(places.size(), length);
  std::fill_n(session_.ids(), places.size() * length, record_.pad_id);
  std::fill_n(session_.mask(), places.size() * length, 0);
  for (std::size_t row = 0; row < places.size(); ++row) {
    const Ids& ids = rows[places[row]];
    const std::size_t first = row * length + (record_.pads_left ? length - ids.size() : 0);
    std::copy(ids.begin(), ids.end(), session_.ids() + first);
    std::fill_n(session_.mask() + first, ids.size(), 1);
  }
  session_.run();
  const std::size_t width = bundle_.manifest().inputs[0].info.features;
  const std::size_t missing = (record_.max_tokens - length) * width;
  for (std::size_t row = 0; row < places.size(); ++row) {
    float* target = features + places[row] * record_.max_tokens * width;
    std::fill_n(target, missing, 0.0F);
    std::copy_n(session_.features() + row * length * width, length * width, target + missing);
  }
}

std::size_t TextStage::encode(const Inputs& inputs, float* features) {
  std::size_t truncated = 0;
  const std::vector<Ids> rows = rows_of(inputs, truncated);
  if (!record_.any_length) {
    std::vector<std::size_t> all(rows.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    run(rows, all, record_.max_tokens, features);
    return truncated;
  }
  std::vector<std::size_t> lengths;
  for (const Ids& ids : rows) lengths.push_back(ids.size());
  for (const std::vector<std::size_t>& places : length_groups(lengths)) {
    std::size_t longest = 0;
    for (const std::size_t place : places) longest = std::max(longest, lengths[place]);
    run(rows, places, longest, features);
  }
  return truncated;
}

}  // namespace dmdkit::text
