#include "tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "failure.hpp"
#include "unicode.hpp"

namespace dmdkit::text {

std::u32string Normalizer::operator()(const std::u32string& text) const {
  std::u32string result;
  result.reserve(text.size());
  for (const char32_t code : text) {
    if (clean_text && is_removed(code)) continue;
    if (handle_chinese_chars && is_ideograph(code)) {
      result.append({U' ', code, U' '});
    } else {
      result.push_back(clean_text && is_whitespace(code) ? U' ' : code);
    }
  }
  if (strip_accents) {
    result = decomposed(result);
    result.erase(std::remove_if(result.begin(), result.end(), is_nonspacing_mark), result.end());
  }
  if (!lowercase) return result;
  std::u32string lower;
  lower.reserve(result.size());
  for (const char32_t code : result) append_lowercase(code, lower);
  return lower;
}

void AddedTokens::add(AddedToken token) {
  std::vector<AddedToken>& tokens = by_first_[token.content.front()];
  const auto longer = [&](const AddedToken& other) { return other.content.size() <= token.content.size(); };
  tokens.insert(std::find_if(tokens.begin(), tokens.end(), longer), std::move(token));
}

const AddedToken* AddedTokens::match(std::u32string_view text, std::size_t at) const {
  const auto found = by_first_.find(text[at]);
  if (found == by_first_.end()) return nullptr;
  for (const AddedToken& token : found->second) {
    if (text.compare(at, token.content.size(), token.content) == 0) return &token;
  }
  return nullptr;
}

bool AddedTokens::has(const std::u32string& content) const {
  const auto found = by_first_.find(content.front());
  return found != by_first_.end() && std::any_of(found->second.begin(), found->second.end(),
                                                 [&](const AddedToken& token) { return token.content == content; });
}

WordPiece::WordPiece(std::unordered_map<std::string, std::int64_t> vocabulary, std::string prefix, std::int64_t unknown,
                     std::size_t max_characters)
    : whole_(std::move(vocabulary)), unknown_(unknown), max_characters_(max_characters) {
  for (const auto& [token, id] : whole_) {
    longest_ = std::max(longest_, token.size());
    if (token.compare(0, prefix.size(), prefix) == 0) rest_.emplace(token.substr(prefix.size()), id);
  }
}

void WordPiece::append(std::u32string_view word, std::vector<std::int64_t>& out) const {
  if (word.size() > max_characters_) {
    out.push_back(unknown_);
    return;
  }
  std::string bytes;
  std::vector<std::size_t> ends = {0};  // where each character ends
  for (const char32_t code : word) {
    append_utf8(code, bytes);
    ends.push_back(bytes.size());
  }
  const std::size_t before = out.size();
  std::string piece;
  for (std::size_t begin = 0; begin < word.size();) {
    const auto& tokens = begin == 0 ? whole_ : rest_;
    std::size_t end = word.size();
    if (ends[end] - ends[begin] > longest_) {  // nothing longer is in the vocabulary
      const auto limit = ends.begin() + static_cast<std::ptrdiff_t>(begin);
      end = static_cast<std::size_t>(std::upper_bound(limit, ends.end(), ends[begin] + longest_) - ends.begin()) - 1;
    }
    auto found = tokens.end();
    for (; end > begin; --end) {
      piece.assign(bytes, ends[begin], ends[end] - ends[begin]);
      found = tokens.find(piece);
      if (found != tokens.end()) break;
    }
    if (found == tokens.end()) {  // one part unknown: the word is
      out.resize(before);
      out.push_back(unknown_);
      return;
    }
    out.push_back(found->second);
    begin = end;
  }
}

namespace {

// Splits `text` at added tokens: `token` is told of each, `other` of what lies between.
template <typename Token, typename Other>
void split(std::u32string_view text, const AddedTokens& tokens, Token&& token, Other&& other) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* found = tokens.empty() ? nullptr : tokens.match(text, at);
    if (found == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at;
    std::size_t stop = at + found->content.size();
    at = stop;
    while (found->left_strip && start > begin && is_whitespace(text[start - 1])) --start;
    while (found->right_strip && stop < text.size() && is_whitespace(text[stop])) ++stop;
    if (begin < start) other(text.substr(begin, start - begin));
    token(found->id);
    begin = stop;
    at = std::max(at, begin);
  }
  if (begin < text.size()) other(text.substr(begin));
}

}  // namespace

void Tokenizer::append_words(std::u32string_view text, std::vector<std::int64_t>& out) const {
  const WordPiece& model = model_.front();
  std::size_t begin = 0;
  const auto word = [&](std::size_t end) {
    if (end > begin) model.append(text.substr(begin, end - begin), out);
  };
  for (std::size_t at = 0; at < text.size() && out.size() <= room_; ++at) {
    const bool space = is_whitespace(text[at]);
    if (!space && !is_punctuation(text[at])) continue;
    word(at);
    begin = at;
    if (!space) word(at + 1);
    begin = at + 1;
  }
  if (out.size() <= room_) word(text.size());
}

void Tokenizer::append_raw(std::u32string_view text, std::vector<std::int64_t>& out) const {
  const std::u32string ready = normalizer_(std::u32string(text));
  const auto add = [&](std::int64_t id) { out.push_back(id); };
  split(ready, normalized_, add, [&](std::u32string_view part) { append_words(part, out); });
}

Tokens Tokenizer::operator()(std::string_view sentence, std::size_t index) const {
  const auto refused = [&](const std::string& cause) {
    return Failure(StatusCode::kInvalidInput, "sentence " + std::to_string(index) + " cannot be tokenised: " + cause);
  };
  if (sentence.size() > kMaxSentenceBytes) throw refused("it is larger than " + std::to_string(kMaxSentenceBytes) + " bytes");
  const std::optional<std::u32string> text = from_utf8(sentence);
  if (!text) throw refused("it is not UTF-8");
  std::vector<std::int64_t> found;
  const auto add = [&](std::int64_t id) { found.push_back(id); };
  split(*text, raw_, add, [&](std::u32string_view part) {
    if (found.size() <= room_) append_raw(part, found);  // one more than fits says that it does not
  });
  Tokens tokens;
  tokens.truncated = found.size() > room_;
  found.resize(std::min(found.size(), room_));
  tokens.ids.reserve(before_.size() + found.size() + after_.size());
  tokens.ids.insert(tokens.ids.end(), before_.begin(), before_.end());
  tokens.ids.insert(tokens.ids.end(), found.begin(), found.end());
  tokens.ids.insert(tokens.ids.end(), after_.begin(), after_.end());
  return tokens;
}

}  // namespace dmdkit::text
