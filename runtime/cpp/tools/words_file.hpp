// Sentences in a file: plain text, a line for each, or JSON.
#ifndef DMDKIT_TOOLS_WORDS_FILE_HPP_
#define DMDKIT_TOOLS_WORDS_FILE_HPP_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "dmdkit/types.hpp"

namespace dmdkit {

// What stands for the input `text`: the rule of dmdkit.runtime.inputs in Python (tests/vectors/words.json holds both to it).
enum class TextKind { kWords, kIds, kFeatures };

TextKind text_kind_of(const nlohmann::json& value) noexcept;

// Sentences, or token ids of sentences; of one kind alone.
struct Words {
  std::vector<std::string> sentences;
  std::vector<std::vector<std::int64_t>> ids;

  std::size_t size() const noexcept { return sentences.size() + ids.size(); }
  std::vector<std::string_view> sentence_views() const { return {sentences.begin(), sentences.end()}; }
  std::vector<TokenIds> id_views() const { return {ids.begin(), ids.end()}; }
};

// A list of strings or of lists of ids; one string or one list of ids is a list of one. Throws Malformed.
Words words_of(const nlohmann::json& value);

// The sentences of a file. Throws Malformed with its name.
Words read_words(const std::string& path);

}  // namespace dmdkit

#endif  // DMDKIT_TOOLS_WORDS_FILE_HPP_
