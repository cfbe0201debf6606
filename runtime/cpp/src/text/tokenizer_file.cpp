// Reading tokenizer.json: what is there is either done as the tokenizers library does it, or refused with the reason.
#include <set>
#include <utility>

#include "failure.hpp"
#include "json_fields.hpp"
#include "strict_json.hpp"
#include "tokenizer.hpp"
#include "unicode.hpp"

namespace dmdkit::text {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxId = (std::uint64_t{1} << 31) - 1;

// Something that the file may say and this tokenizer does not do; export refuses it too (dmdkit.export.tokenizer_check).
class NotHere : public Malformed {
 public:
  using Malformed::Malformed;
};

std::string type_of(const Json& value, const std::string& place) {
  if (!value.is_object()) throw Malformed(place, "expected an object");
  if (!value.contains("type")) throw NotHere(place, "it has no type");
  return JsonFields(value, place).text("type");
}

std::u32string characters(const std::string& text) { return from_utf8(text).value_or(std::u32string()); }

Normalizer read_normalizer(const Json& value) {
  Normalizer normalizer;
  if (value.is_null()) return normalizer;
  const std::string type = type_of(value, "normalizer");
  if (type != "BertNormalizer") throw NotHere("normalizer", in_quotes(type) + ", expected BertNormalizer");
  JsonFields fields(value, "normalizer");
  normalizer.clean_text = fields.boolean("clean_text");
  normalizer.handle_chinese_chars = fields.boolean("handle_chinese_chars");
  normalizer.lowercase = fields.boolean("lowercase");
  normalizer.strip_accents = fields.is_null("strip_accents") ? normalizer.lowercase : fields.boolean("strip_accents");
  return normalizer;
}

void check_pre_tokenizer(const Json& value) {
  const std::string type = value.is_null() ? "none" : type_of(value, "pre_tokenizer");
  if (type != "BertPreTokenizer") throw NotHere("pre_tokenizer", in_quotes(type) + ", expected BertPreTokenizer");
}

struct Vocabulary {
  std::unordered_map<std::string, std::int64_t> ids;

  // -1 where there is none.
  std::int64_t find(const std::string& token) const {
    const auto found = ids.find(token);
    return found == ids.end() ? -1 : found->second;
  }
};

Vocabulary read_vocabulary(const Json& value) {
  if (!value.is_object()) throw Malformed("model.vocab", "expected an object");
  Vocabulary vocabulary;
  for (const auto& [token, id] : value.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > kMaxId) {
      throw Malformed("model.vocab", in_quotes(token) + " has no id, expected a natural number");
    }
    vocabulary.ids.emplace(token, id.get<std::int64_t>());
  }
  return vocabulary;
}

WordPiece read_model(const Json& value, const Vocabulary& vocabulary) {
  JsonFields fields(value, "model");
  const std::string unknown = fields.has("unk_token") ? fields.text("unk_token") : "[UNK]";
  if (vocabulary.find(unknown) < 0) throw NotHere("model", "its unk_token " + in_quotes(unknown) + " is not in its vocabulary");
  const std::uint64_t longest = fields.has("max_input_chars_per_word") ? fields.count("max_input_chars_per_word") : 100;
  const std::string prefix = fields.has("continuing_subword_prefix") ? fields.text("continuing_subword_prefix") : "##";
  return {vocabulary.ids, prefix, vocabulary.find(unknown), longest};
}

// The special tokens in front of and behind a sentence: a template's, or BertProcessing's.
struct Around {
  std::vector<std::int64_t> before;
  std::vector<std::int64_t> after;
};

std::int64_t pair_id(const Json& value, const std::string& place) {
  if (!value.is_array() || value.size() != 2 || !value[0].is_string() || !value[1].is_number_unsigned() ||
      value[1].get<std::uint64_t>() > kMaxId) {
    throw Malformed(place, "expected a token and its id");
  }
  return value[1].get<std::int64_t>();
}

Around read_template(const Json& value) {
  JsonFields fields(value, "post_processor");
  const Json& pieces = fields.child("single");
  const Json& specials = fields.child("special_tokens");
  if (!pieces.is_array() || !specials.is_object()) throw Malformed("post_processor", "expected a list and an object");
  Around around;
  bool seen = false;
  for (const Json& piece : pieces) {
    const std::string place = "post_processor.single";
    if (!piece.is_object() || piece.size() != 1) throw Malformed(place, "expected objects of one key");
    JsonFields content(piece.begin().value(), place);
    const std::string id = content.text("id");
    if (piece.begin().key() == "Sequence") {
      if (seen || id != "A") throw NotHere(place, "expected one sequence, A");
      seen = true;
      continue;
    }
    if (piece.begin().key() != "SpecialToken" || !specials.contains(id)) {
      throw Malformed(place, in_quotes(id) + " is not one of its special tokens");
    }
    const Json& ids = JsonFields(specials.at(id), "post_processor.special_tokens").child("ids");
    if (!ids.is_array()) throw Malformed("post_processor.special_tokens", "ids: expected a list");
    for (const Json& number : ids) {
      if (!number.is_number_unsigned() || number.get<std::uint64_t>() > kMaxId) {
        throw Malformed("post_processor.special_tokens", "ids: expected natural numbers");
      }
      (seen ? around.after : around.before).push_back(number.get<std::int64_t>());
    }
  }
  if (!seen) throw NotHere("post_processor.single", "expected one sequence, A");
  return around;
}

Around read_around(const Json& value) {
  if (value.is_null()) return {};
  const std::string type = type_of(value, "post_processor");
  if (type == "TemplateProcessing") return read_template(value);
  if (type == "BertProcessing") {
    JsonFields fields(value, "post_processor");
    return {{pair_id(fields.child("cls"), "post_processor.cls")}, {pair_id(fields.child("sep"), "post_processor.sep")}};
  }
  throw NotHere("post_processor", in_quotes(type) + ", expected TemplateProcessing or BertProcessing");
}

struct Added {
  AddedTokens raw;
  AddedTokens normalized;
  std::size_t beyond = 0;  // how many are not in the model's vocabulary
};

Added read_added(const Json& value, const Vocabulary& vocabulary, const Normalizer& normalizer) {
  if (!value.is_array()) throw Malformed("added_tokens", "expected a list");
  Added added;
  std::set<std::string> seen;
  for (const Json& entry : value) {
    JsonFields fields(entry, "added_tokens");
    const std::string content = fields.text("content");
    const auto id = static_cast<std::int64_t>(fields.count("id", 0, kMaxId));
    const bool normalized = fields.boolean("normalized");
    AddedToken token{characters(content), id, fields.boolean("lstrip"), fields.boolean("rstrip")};
    if (fields.boolean("single_word")) throw NotHere("added_tokens", in_quotes(content) + " is for whole words only");
    if (!seen.insert(content).second) throw NotHere("added_tokens", in_quotes(content) + " comes twice");
    std::int64_t expected = vocabulary.find(content);
    if (expected < 0) expected = static_cast<std::int64_t>(vocabulary.ids.size() + added.beyond++);
    if (expected != id) {
      throw NotHere("added_tokens", in_quotes(content) + " has the id " + std::to_string(id) + ", not " + std::to_string(expected) +
                                        " as the vocabulary says");
    }
    if (normalized) token.content = normalizer(token.content);
    if (token.content.empty()) throw NotHere("added_tokens", in_quotes(content) + " has no character");
    if (is_whitespace(token.content.front()) || is_whitespace(token.content.back())) {
      throw NotHere("added_tokens", in_quotes(content) + " begins or ends with a space");
    }
    AddedTokens& tokens = normalized ? added.normalized : added.raw;
    if (tokens.has(token.content)) throw NotHere("added_tokens", in_quotes(content) + " is another one when normalised");
    tokens.add(std::move(token));
  }
  return added;
}

}  // namespace

Tokenizer::Tokenizer(const unsigned char* data, std::size_t size, const std::string& where, std::size_t vocabulary_size,
                     std::size_t max_tokens) {
  const auto damaged = [&](const std::string& cause) {
    return Failure(StatusCode::kBundleDamaged, where + ": not a tokenizer of the tokenizers library: " + printable(cause.substr(0, 300)));
  };
  if (size > kMaxTokenizerBytes) throw damaged("it is larger than " + std::to_string(kMaxTokenizerBytes) + " bytes");
  std::string problem;
  const Json value = parse_strict_json(data, size, problem);
  if (value.is_discarded()) throw damaged(problem);
  try {
    JsonFields fields(value, "");
    const auto child = [&](const char* key) { return fields.is_null(key) ? Json() : fields.child(key); };
    const Json& model = fields.child("model");
    const std::string type = type_of(model, "model");
    if (type != "WordPiece") throw NotHere("model", in_quotes(type) + ", expected WordPiece");
    normalizer_ = read_normalizer(child("normalizer"));
    check_pre_tokenizer(child("pre_tokenizer"));
    const Vocabulary vocabulary = read_vocabulary(JsonFields(model, "model").child("vocab"));
    model_.push_back(read_model(model, vocabulary));
    Around around = read_around(child("post_processor"));
    Added added = read_added(fields.has("added_tokens") ? fields.child("added_tokens") : Json::array(), vocabulary, normalizer_);
    if (vocabulary.ids.size() + added.beyond > vocabulary_size) {
      throw Failure(StatusCode::kBundleDamaged,
                    where + ": the tokenizer has " + std::to_string(vocabulary.ids.size() + added.beyond) + " tokens, the encoder " +
                        std::to_string(vocabulary_size) + "; they do not belong together");
    }
    const std::size_t specials = around.before.size() + around.after.size();
    if (specials >= max_tokens) throw NotHere("post_processor", "its special tokens leave no room for a sentence");
    raw_ = std::move(added.raw);
    normalized_ = std::move(added.normalized);
    before_ = std::move(around.before);
    after_ = std::move(around.after);
    room_ = max_tokens - specials;
  } catch (const NotHere& cause) {
    throw Failure(StatusCode::kGraphUnavailable, where + ": words need a tokenizer that C++ knows: " +
                                                     printable(std::string(cause.what()).substr(0, 300)) +
                                                     "; pass token ids or features, or read words in Python");
  } catch (const Malformed& cause) {
    throw damaged(cause.what());
  }
}

}  // namespace dmdkit::text
