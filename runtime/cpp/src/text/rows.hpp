// Token ids of sentences, laid out as the text graphs take them; the rules are Python's (dmdkit.runtime.text), and
// tests/vectors/words.json holds both to them.
#ifndef DMDKIT_SRC_TEXT_ROWS_HPP_
#define DMDKIT_SRC_TEXT_ROWS_HPP_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "dmdkit/types.hpp"

namespace dmdkit::text {

using Ids = std::vector<std::int64_t>;

// What the manifest says of the text encoder.
struct TextRecord {
  std::string tokenizer;  // its file
  std::size_t max_tokens = 0;
  std::size_t vocabulary_size = 0;
  std::int64_t pad_id = 0;
  bool pads_left = true;
  bool any_length = false;  // whether the text graphs take sentences of 1 to max_tokens tokens, not of max_tokens alone
};

// The ids of a sentence without its padding, on whichever side that was; between tokens it is one of them.
Ids without_padding(View<const std::int64_t> ids, std::int64_t pad_id);

// Throws Failure with kInvalidInput where sentence `index` has no token, too many, or one outside the vocabulary.
void check_ids(const Ids& ids, std::size_t index, const TextRecord& record);

// Sentences whose lengths, rounded up to a multiple of this, are equal run together.
inline constexpr std::size_t kLengthGroup = 8;

// The places of sentences that run together, groups of short sentences first.
std::vector<std::vector<std::size_t>> length_groups(const std::vector<std::size_t>& lengths);

}  // namespace dmdkit::text

#endif  // DMDKIT_SRC_TEXT_ROWS_HPP_
