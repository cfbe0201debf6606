#include "words_file.hpp"

#include <algorithm>

#include "files.hpp"
#include "json_fields.hpp"
#include "strict_json.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxWordsBytes = std::uint64_t{256} << 20;
constexpr char kJson[] = ".json";

std::vector<std::int64_t> ids_of(const Json& row) {
  if (!row.is_array()) throw Malformed("", "expected a list of token ids for each sentence");
  std::vector<std::int64_t> ids;
  for (const Json& id : row) {
    const bool fits = id.is_number_integer() && (!id.is_number_unsigned() || id.get<std::uint64_t>() <= kMaxCount);
    if (!fits) throw Malformed("", "a token id is no whole number");
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

Words lines_of(const std::string& text) {
  Words words;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    words.sentences.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

}  // namespace

TextKind text_kind_of(const Json& value) noexcept {
  const auto is_whole = [](const Json& item) { return item.is_number_integer(); };
  if (value.is_string()) return TextKind::kWords;
  if (!value.is_array() || value.empty()) return TextKind::kFeatures;
  // What the first sentence is decides; one without a token says nothing.
  const auto found =
      std::find_if(value.begin(), value.end(), [](const Json& item) { return !item.is_array() || !item.empty(); });
  if (found == value.end()) return TextKind::kFeatures;
  if (found->is_string()) return TextKind::kWords;
  return is_whole(found->is_array() ? found->front() : *found) ? TextKind::kIds : TextKind::kFeatures;
}

Words words_of(const Json& value) {
  Words words;
  switch (text_kind_of(value)) {
    case TextKind::kFeatures:
      throw Malformed("", "expected strings, or lists of token ids");
    case TextKind::kIds:
      if (!value.front().is_array()) {
        words.ids.push_back(ids_of(value));
        break;
      }
      for (const Json& row : value) words.ids.push_back(ids_of(row));
      break;
    case TextKind::kWords:
      if (value.is_string()) {
        words.sentences.push_back(value.get<std::string>());
        break;
      }
      for (const Json& item : value) {
        if (!item.is_string()) throw Malformed("", "mixes sentences with something else");
        words.sentences.push_back(item.get<std::string>());
      }
      break;
  }
  return words;
}

Words read_words(const std::string& path) {
  const ReadOutcome outcome = read_file(path, kMaxWordsBytes);
  if (outcome.error != 0) throw Malformed(path, "cannot be read: " + error_text(outcome.error));
  if (outcome.too_large) throw Malformed(path, "larger than 256 MiB");
  const std::size_t end = sizeof kJson - 1;
  if (path.size() < end || path.compare(path.size() - end, end, kJson) != 0) {
    return lines_of(std::string(outcome.bytes.begin(), outcome.bytes.end()));
  }
  std::string problem;
  const Json value = parse_strict_json(outcome.bytes.data(), outcome.bytes.size(), problem);
  if (value.is_discarded()) throw Malformed(path, problem);
  try {
    return words_of(value);
  } catch (const Malformed& cause) {
    throw Malformed(path, cause.what());
  }
}

}  // namespace dmdkit
