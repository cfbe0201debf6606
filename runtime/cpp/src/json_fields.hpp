// Typed access to a JSON object in which every key must be known; a problem throws Malformed with the place and the cause.
#ifndef DMDKIT_SRC_JSON_FIELDS_HPP_
#define DMDKIT_SRC_JSON_FIELDS_HPP_

#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dmdkit {

// "inputs.text.steps: expected a positive integer".
class Malformed : public std::runtime_error {
 public:
  Malformed(const std::string& place, const std::string& cause)
      : std::runtime_error(place.empty() ? cause : place + ": " + cause) {}
};

// The limits of Python's reader, so that both refuse the same numbers.
inline constexpr std::uint64_t kMaxCount = (std::uint64_t{1} << 63) - 1;
inline constexpr std::uint64_t kMaxSize = (std::uint64_t{1} << 31) - 1;

// One object; call finish() after the last field, it refuses what was not asked for.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& value, std::string place);

  bool has(const std::string& key);       // for a key that may be left out, and then has a default
  bool is_null(const std::string& key);   // for one that may be left out or null
  bool is_given(const std::string& key);  // for one that must be there and may be null
  const nlohmann::json& child(const std::string& key);
  const std::string& place() const { return place_; }
  std::string place(const std::string& key) const { return place_.empty() ? key : place_ + "." + key; }

  std::string text(const std::string& key);
  std::string one_of(const std::string& key, std::initializer_list<const char*> allowed);
  std::string sha256(const std::string& key);
  std::uint64_t count(const std::string& key, std::uint64_t minimum = 0, std::uint64_t maximum = kMaxCount);
  std::uint64_t size(const std::string& key) { return count(key, 1, kMaxSize); }
  double number(const std::string& key, double minimum, double maximum);
  bool boolean(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  std::vector<double> numbers(const std::string& key);
  std::map<std::string, std::string> text_map(const std::string& key);
  std::pair<double, double> interval(const std::string& key);

  void finish() const;

 private:
  const nlohmann::json& value_;
  std::string place_;
  std::set<std::string> seen_;
};

// Text from a file with everything but printable ASCII replaced, so that a message cannot carry control characters.
std::string printable(std::string text);

// A name from a file as it may appear in a message: quoted, shortened, control characters replaced.
std::string in_quotes(const std::string& name);

}  // namespace dmdkit

#endif  // DMDKIT_SRC_JSON_FIELDS_HPP_
