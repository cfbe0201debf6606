#include "json_fields.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestQuote = 100;

std::string text_of(const Json& value, const std::string& place) {
  if (!value.is_string()) throw Malformed(place, "expected a string");
  return value.get<std::string>();
}

double number_of(const Json& value, const std::string& place) {
  if (!value.is_number()) throw Malformed(place, "expected a number");
  const auto number = value.get<double>();
  if (!std::isfinite(number)) throw Malformed(place, "expected a finite number");
  return number;
}

const Json& array_of(const Json& value, const std::string& place) {
  if (!value.is_array()) throw Malformed(place, "expected a list");
  return value;
}

}  // namespace

std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c >= 0x7F; }, '?');
  return text;
}

std::string in_quotes(const std::string& name) {
  return "'" + printable(name.substr(0, kLongestQuote)) + (name.size() > kLongestQuote ? "...'" : "'");
}

JsonFields::JsonFields(const Json& value, std::string place) : value_(value), place_(std::move(place)) {
  if (!value.is_object()) throw Malformed(place_, "expected an object");
}

bool JsonFields::has(const std::string& key) {
  seen_.insert(key);
  return value_.contains(key);
}

bool JsonFields::is_given(const std::string& key) { return !child(key).is_null(); }

bool JsonFields::is_null(const std::string& key) {
  seen_.insert(key);
  const auto found = value_.find(key);
  return found == value_.end() || found->is_null();
}

const Json& JsonFields::child(const std::string& key) {
  seen_.insert(key);
  const auto found = value_.find(key);
  if (found == value_.end()) throw Malformed(place(key), "missing");
  return *found;
}

std::string JsonFields::text(const std::string& key) { return text_of(child(key), place(key)); }

std::string JsonFields::one_of(const std::string& key, std::initializer_list<const char*> allowed) {
  std::string found = text(key);
  if (std::find(allowed.begin(), allowed.end(), found) != allowed.end()) return found;
  std::string expected;
  for (const char* name : allowed) expected += (expected.empty() ? "" : ", ") + std::string(name);
  throw Malformed(place(key), "expected one of " + expected + ", found " + in_quotes(found));
}

std::string JsonFields::sha256(const std::string& key) {
  std::string found = text(key);
  const bool good = found.size() == 64 && found.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!good) throw Malformed(place(key), "expected 64 lower-case hexadecimal digits");
  return found;
}

std::uint64_t JsonFields::count(const std::string& key, std::uint64_t minimum, std::uint64_t maximum) {
  const Json& found = child(key);
  // Parsing gives an unsigned integer for whatever fits 64 bits and a float for what does not.
  if (!found.is_number_unsigned() || found.get<std::uint64_t>() < minimum || found.get<std::uint64_t>() > maximum) {
    throw Malformed(place(key), "expected an integer from " + std::to_string(minimum) + " to " + std::to_string(maximum));
  }
  return found.get<std::uint64_t>();
}

double JsonFields::number(const std::string& key, double minimum, double maximum) {
  const double found = number_of(child(key), place(key));
  if (found < minimum || found > maximum) throw Malformed(place(key), "outside its range");
  return found;
}

bool JsonFields::boolean(const std::string& key) {
  const Json& found = child(key);
  if (!found.is_boolean()) throw Malformed(place(key), "expected true or false");
  return found.get<bool>();
}

std::vector<std::string> JsonFields::texts(const std::string& key) {
  std::vector<std::string> result;
  for (const Json& value : array_of(child(key), place(key))) result.push_back(text_of(value, place(key)));
  return result;
}

std::vector<double> JsonFields::numbers(const std::string& key) {
  std::vector<double> result;
  for (const Json& value : array_of(child(key), place(key))) result.push_back(number_of(value, place(key)));
  return result;
}

std::map<std::string, std::string> JsonFields::text_map(const std::string& key) {
  const Json& found = child(key);
  if (!found.is_object()) throw Malformed(place(key), "expected an object");
  std::map<std::string, std::string> result;
  for (const auto& [name, value] : found.items()) result.emplace(name, text_of(value, place(key)));
  return result;
}

std::pair<double, double> JsonFields::interval(const std::string& key) {
  const std::vector<double> found = numbers(key);
  if (found.size() != 2) throw Malformed(place(key), "expected two numbers");
  return {found[0], found[1]};
}

void JsonFields::finish() const {
  for (const auto& item : value_.items()) {
    if (seen_.count(item.key()) == 0) throw Malformed(place_, "unknown key " + in_quotes(item.key()));
  }
}

}  // namespace dmdkit
