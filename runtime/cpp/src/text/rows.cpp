#include "rows.hpp"

#include <algorithm>
#include <map>

#include "failure.hpp"

namespace dmdkit::text {

Ids without_padding(View<const std::int64_t> ids, std::int64_t pad_id) {
  std::size_t begin = 0;
  std::size_t end = ids.size();
  while (begin < end && ids[begin] == pad_id) ++begin;
  while (end > begin && ids[end - 1] == pad_id) --end;
  return {ids.begin() + begin, ids.begin() + end};
}

void check_ids(const Ids& ids, std::size_t index, const TextRecord& record) {
  const std::string sentence = "sentence " + std::to_string(index);
  if (ids.empty() || ids.size() > record.max_tokens) {
    throw Failure(StatusCode::kInvalidInput, sentence + " has " + std::to_string(ids.size()) + " tokens, expected 1 to " +
                                                 std::to_string(record.max_tokens) + "; cut it, or pass it as a string");
  }
  const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
  if (*least >= 0 && static_cast<std::uint64_t>(*most) < record.vocabulary_size) return;
  throw Failure(StatusCode::kInvalidInput, sentence + " has the token id " + std::to_string(*least < 0 ? *least : *most) +
                                               "; this encoder's vocabulary ends at " +
                                               std::to_string(record.vocabulary_size - 1));
}

std::vector<std::vector<std::size_t>> length_groups(const std::vector<std::size_t>& lengths) {
  std::map<std::size_t, std::vector<std::size_t>> groups;
  for (std::size_t place = 0; place < lengths.size(); ++place) {
    groups[(lengths[place] + kLengthGroup - 1) / kLengthGroup].push_back(place);
  }
  std::vector<std::vector<std::size_t>> result;
  for (auto& group : groups) result.push_back(std::move(group.second));
  return result;
}

}  // namespace dmdkit::text
