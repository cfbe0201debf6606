#include "unicode.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace dmdkit::text {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

struct ClassRange {
  char32_t first;
  char32_t last;
  std::uint8_t value;
};

// Every `step`th from first to last; a step of 0 stands for the first alone.
struct LowerRun {
  char32_t first;
  char32_t last;
  std::uint8_t step;
  std::int32_t difference;
};

struct Decomposition {
  char32_t code;
  std::uint16_t begin;
  std::uint8_t size;
};

#include "unicode_decompositions.inc"
#include "unicode_tables.inc"

// The entry whose range holds `code`, or null.
template <typename Entry, std::size_t N>
const Entry* find(const Entry (&table)[N], char32_t code) noexcept {
  const Entry* after =
      std::upper_bound(std::begin(table), std::end(table), code, [](char32_t value, const Entry& entry) { return value < entry.first; });
  if (after == std::begin(table)) return nullptr;
  const Entry* entry = after - 1;
  return code <= entry->last ? entry : nullptr;
}

std::uint8_t combining_class(char32_t code) noexcept {
  if (code < 0x300) return 0;
  const ClassRange* found = find(kCombiningClass, code);
  return found == nullptr ? 0 : found->value;
}

// Hangul syllables are arithmetic (Unicode 3.12).
constexpr char32_t kSyllables = 0xAC00, kSyllablesEnd = 0xD7A4, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr char32_t kTailCount = 28, kVowelTailCount = 21 * 28;

void append_decomposed(char32_t code, std::u32string& out) {
  if (code < 0xC0) {
    out.push_back(code);
    return;
  }
  if (code >= kSyllables && code < kSyllablesEnd) {
    const char32_t index = code - kSyllables;
    out.push_back(kLeads + index / kVowelTailCount);
    out.push_back(kVowels + index % kVowelTailCount / kTailCount);
    if (index % kTailCount != 0) out.push_back(kTails + index % kTailCount);
    return;
  }
  const Decomposition* found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                                                [](const Decomposition& entry, char32_t value) { return entry.code < value; });
  if (found == std::end(kDecompositions) || found->code != code) {
    out.push_back(code);
  } else {
    out.append(kDecomposed + found->begin, found->size);
  }
}

constexpr Range kIdeographs[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
                                 {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};

}  // namespace

bool is_removed(char32_t code) noexcept { return find(kRemoved, code) != nullptr; }
bool is_whitespace(char32_t code) noexcept { return find(kWhitespace, code) != nullptr; }
bool is_punctuation(char32_t code) noexcept { return find(kPunctuation, code) != nullptr; }
bool is_nonspacing_mark(char32_t code) noexcept { return code >= 0x300 && find(kMark, code) != nullptr; }
bool is_ideograph(char32_t code) noexcept { return code >= 0x3400 && find(kIdeographs, code) != nullptr; }

void append_lowercase(char32_t code, std::u32string& out) {
  if (code < 0x80) {
    out.push_back(code >= 'A' && code <= 'Z' ? code + 32 : code);
    return;
  }
  if (code == 0x130) {
    out.append(kLowerOfDottedI, std::size(kLowerOfDottedI));
    return;
  }
  const LowerRun* run = find(kLowercase, code);
  const bool upper = run != nullptr && (run->step == 0 || (code - run->first) % run->step == 0);
  out.push_back(upper ? static_cast<char32_t>(static_cast<std::int64_t>(code) + run->difference) : code);
}

std::u32string decomposed(const std::u32string& text) {
  std::u32string result;
  result.reserve(text.size());
  for (const char32_t code : text) append_decomposed(code, result);
  // Marks of different classes that follow one letter are put in the order of their classes; those of one class stay.
  for (std::size_t at = 0; at < result.size();) {
    if (combining_class(result[at]) == 0) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < result.size() && combining_class(result[end]) != 0) ++end;
    std::stable_sort(result.begin() + static_cast<std::ptrdiff_t>(at), result.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    at = end;
  }
  return result;
}

std::optional<std::u32string> from_utf8(std::string_view text) {
  std::u32string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x80) {
      result.push_back(first);
      ++at;
      continue;
    }
    const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || text.size() - at < size) return std::nullopt;
    char32_t code = first & (0xFFU >> (size + 1));
    for (std::size_t i = 1; i < size; ++i) {
      const auto byte = static_cast<unsigned char>(text[at + i]);
      if ((byte & 0xC0U) != 0x80U) return std::nullopt;
      code = code << 6U | (byte & 0x3FU);
    }
    const char32_t smallest = size == 4 ? 0x10000 : size == 3 ? 0x800 : 0x80;
    if (code < smallest || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return std::nullopt;
    result.push_back(code);
    at += size;
  }
  return result;
}

void append_utf8(char32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
    return;
  }
  if (code >= 0x10000) {
    out.push_back(static_cast<char>(0xF0U | code >> 18U));
    out.push_back(static_cast<char>(0x80U | (code >> 12U & 0x3FU)));
  } else if (code >= 0x800) {
    out.push_back(static_cast<char>(0xE0U | code >> 12U));
  }
  if (code >= 0x800) {
    out.push_back(static_cast<char>(0x80U | (code >> 6U & 0x3FU)));
  } else {
    out.push_back(static_cast<char>(0xC0U | code >> 6U));
  }
  out.push_back(static_cast<char>(0x80U | (code & 0x3FU)));
}

}  // namespace dmdkit::text
