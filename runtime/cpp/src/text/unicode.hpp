// What a BERT tokenizer asks of Unicode, with the answers of the tokenizers library (scripts/unicode_tables.py).
#ifndef DMDKIT_SRC_TEXT_UNICODE_HPP_
#define DMDKIT_SRC_TEXT_UNICODE_HPP_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace dmdkit::text {

// Neither a letter nor a sign that anyone sees: control and format characters, private use, U+0000 and U+FFFD.
bool is_removed(char32_t code) noexcept;
bool is_whitespace(char32_t code) noexcept;
bool is_punctuation(char32_t code) noexcept;
bool is_nonspacing_mark(char32_t code) noexcept;
// In one of the blocks of ideographs that BERT puts spaces around.
bool is_ideograph(char32_t code) noexcept;

// The lower-case form of every character by itself, appended to `out`.
void append_lowercase(char32_t code, std::u32string& out);

// Canonical decomposition (normalisation form D).
std::u32string decomposed(const std::u32string& text);

// Nothing where `text` is not UTF-8: surrogates, overlong forms and what is above U+10FFFF are not.
std::optional<std::u32string> from_utf8(std::string_view text);
void append_utf8(char32_t code, std::string& out);

}  // namespace dmdkit::text

#endif  // DMDKIT_SRC_TEXT_UNICODE_HPP_
