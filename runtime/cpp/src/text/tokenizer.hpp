// Sentences to token ids as a bundle's tokenizer.json says: BERT's normaliser and pre-tokeniser, WordPiece, added tokens, and the
// special tokens around a sentence. The ids are those of the tokenizers library, which Python reads the same file with.
#ifndef DMDKIT_SRC_TEXT_TOKENIZER_HPP_
#define DMDKIT_SRC_TEXT_TOKENIZER_HPP_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dmdkit::text {

// A longer sentence is refused, so that memory is bounded whatever comes in.
inline constexpr std::size_t kMaxSentenceBytes = std::size_t{16} << 20;
inline constexpr std::uint64_t kMaxTokenizerBytes = std::uint64_t{256} << 20;  // as in Python

// What happens to a text before it is split into words.
struct Normalizer {
  bool clean_text = false;
  bool handle_chinese_chars = false;
  bool strip_accents = false;
  bool lowercase = false;

  std::u32string operator()(const std::u32string& text) const;
};

// A token that is found in the text itself.
struct AddedToken {
  std::u32string content;  // as it stands in the text it is looked for in, normalised where that is
  std::int64_t id = 0;
  bool left_strip = false;
  bool right_strip = false;
};

// Added tokens by the character they begin with, the longest first.
class AddedTokens {
 public:
  void add(AddedToken token);
  bool empty() const noexcept { return by_first_.empty(); }
  // The longest that begins at `at`, or null.
  const AddedToken* match(std::u32string_view text, std::size_t at) const;
  bool has(const std::u32string& content) const;

 private:
  std::unordered_map<char32_t, std::vector<AddedToken>> by_first_;
};

class WordPiece {
 public:
  // The vocabulary is owned; `prefix` marks tokens that continue a word.
  WordPiece(std::unordered_map<std::string, std::int64_t> vocabulary, std::string prefix, std::int64_t unknown,
            std::size_t max_characters);

  // Appends the tokens of one word.
  void append(std::u32string_view word, std::vector<std::int64_t>& out) const;
  std::size_t size() const noexcept { return whole_.size(); }

 private:
  std::unordered_map<std::string, std::int64_t> whole_;
  std::unordered_map<std::string, std::int64_t> rest_;  // without the prefix
  std::size_t longest_ = 0;                             // bytes of the longest token
  std::int64_t unknown_;
  std::size_t max_characters_;
};

// The ids of one sentence, special tokens included.
struct Tokens {
  std::vector<std::int64_t> ids;
  bool truncated = false;  // whether it was longer and lost its end
};

class Tokenizer {
 public:
  // Reads a tokenizer.json; `where` names it in messages. Throws Failure: kBundleDamaged where it is damaged or has more tokens
  // than `vocabulary_size`, kGraphUnavailable where it says what this tokenizer does not do.
  Tokenizer(const unsigned char* data, std::size_t size, const std::string& where, std::size_t vocabulary_size,
            std::size_t max_tokens);

  // The tokens of a sentence in UTF-8; one longer than max_tokens loses its end, its special tokens stay. Throws Failure with
  // kInvalidInput where it is not UTF-8 or larger than kMaxSentenceBytes; `index` names it in messages.
  Tokens operator()(std::string_view sentence, std::size_t index) const;

 private:
  void append_raw(std::u32string_view text, std::vector<std::int64_t>& out) const;
  void append_words(std::u32string_view text, std::vector<std::int64_t>& out) const;

  Normalizer normalizer_;
  AddedTokens raw_;         // looked for before normalising
  AddedTokens normalized_;  // and after it
  std::vector<WordPiece> model_;  // one; a vector so that it is made last
  std::vector<std::int64_t> before_;
  std::vector<std::int64_t> after_;
  std::size_t room_ = 0;  // for tokens of the sentence itself
};

}  // namespace dmdkit::text

#endif  // DMDKIT_SRC_TEXT_TOKENIZER_HPP_
