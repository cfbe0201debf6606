#include "strict_json.hpp"

#include <cstdint>
#include <cstring>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dmdkit {
namespace {

using Json = nlohmann::json;

// A first pass that builds nothing and stops at the first thing that is not allowed; the second pass then builds a value whose
// size is known to be bounded.
class Inspector {
 public:
  explicit Inspector(std::string& problem) : problem_(problem) {}

  bool null() { return value(); }
  bool boolean(bool) { return value(); }
  bool number_integer(std::int64_t) { return value(); }
  bool number_unsigned(std::uint64_t) { return value(); }
  bool number_float(double, const std::string&) { return value(); }
  bool string(std::string&) { return value(); }
  bool binary(Json::binary_t&) { return value(); }
  bool start_object(std::size_t) { return enter(); }
  bool end_object() { return leave(); }
  bool start_array(std::size_t) { return enter(); }
  bool end_array() { return leave(); }

  bool key(std::string& name) {
    if (keys_.back().insert(name).second) return true;
    problem_ = "a key occurs twice in one object";
    return false;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    problem_ = error.what();
    return false;
  }

 private:
  bool value() {
    if (++values_ <= kMaxJsonValues) return true;
    problem_ = "more than " + std::to_string(kMaxJsonValues) + " values";
    return false;
  }

  bool enter() {
    if (keys_.size() >= kMaxJsonDepth) {
      problem_ = "nested more than " + std::to_string(kMaxJsonDepth) + " deep";
      return false;
    }
    keys_.emplace_back();
    return value();
  }

  bool leave() {
    keys_.pop_back();
    return true;
  }

  std::string& problem_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::size_t values_ = 0;
};

}  // namespace

Json parse_strict_json(const unsigned char* data, std::size_t size, std::string& problem) {
  if (size >= 3 && data[0] == 0xEF && data[1] == 0xBB && data[2] == 0xBF) {
    problem = "it starts with a byte order mark";
    return Json(Json::value_t::discarded);
  }
  // The parser takes a zero byte for the end and would leave what follows unread.
  if (size > 0 && std::memchr(data, 0, size) != nullptr) {
    problem = "it holds a zero byte";
    return Json(Json::value_t::discarded);
  }
  Inspector inspector(problem);
  if (!Json::sax_parse(data, data + size, &inspector)) {
    if (problem.empty()) problem = "not JSON";
    if (problem.size() > 200) problem.resize(200);
    return Json(Json::value_t::discarded);
  }
  return Json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
}

}  // namespace dmdkit
