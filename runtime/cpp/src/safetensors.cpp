#include "safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "json_fields.hpp"
#include "strict_json.hpp"

namespace dmdkit {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{16} << 20;
constexpr std::size_t kMaxRank = 8;

struct Span {
  std::uint64_t begin;
  std::uint64_t end;
};

struct Entry {
  Tensor tensor;
  std::string dtype;
  Span span{};
};

std::vector<std::size_t> read_shape(const Json& value, const std::string& name, std::uint64_t& elements) {
  if (!value.is_array() || value.size() > kMaxRank) throw Malformed(in_quotes(name), "expected a shape of at most 8 sizes");
  std::vector<std::size_t> shape;
  elements = 1;
  for (const Json& size : value) {
    if (!size.is_number_unsigned()) throw Malformed(in_quotes(name), "a size is not a natural number");
    const auto found = size.get<std::uint64_t>();
    if (found != 0 && elements > UINT64_MAX / 4 / found) throw Malformed(in_quotes(name), "its shape overflows");
    elements *= found;
    shape.push_back(found);
  }
  return shape;
}

Span read_offsets(const Json& value, const std::string& name, std::uint64_t available) {
  if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned()) {
    throw Malformed(in_quotes(name), "data_offsets are not two natural numbers");
  }
  const Span span{value[0].get<std::uint64_t>(), value[1].get<std::uint64_t>()};
  if (span.begin > span.end || span.end > available) throw Malformed(in_quotes(name), "its data lies outside the file");
  return span;
}

Entry read_entry(const Json& value, const std::string& name, const unsigned char* data, std::uint64_t available,
                 std::vector<Span>& spans) {
  JsonFields fields(value, in_quotes(name));
  Entry entry;
  entry.dtype = fields.one_of("dtype", {"F32", "I64", "F64"});
  const bool is_float = entry.dtype == "F32";
  std::uint64_t elements = 0;
  Tensor& tensor = entry.tensor;
  tensor.shape = read_shape(fields.child("shape"), name, elements);
  const Span span = read_offsets(fields.child("data_offsets"), name, available);
  fields.finish();
  const std::uint64_t width = is_float ? sizeof(float) : sizeof(std::int64_t);  // as wide as a double
  // read_shape bounds the elements to a quarter of what fits, so that only the wider type can still overflow.
  if (elements > UINT64_MAX / width || span.end - span.begin != elements * width) {
    throw Malformed(in_quotes(name), "its data does not fit its shape");
  }
  spans.push_back(span);
  entry.span = span;
  if (!is_float) return entry;
  tensor.values.resize(elements);
  if (elements > 0) std::memcpy(tensor.values.data(), data + span.begin, elements * sizeof(float));
  return entry;
}

}  // namespace

Tensors parse_safetensors(const unsigned char* data, std::size_t size, std::set<std::string>* left_out,
                          IntegerTensors* integers) {
  if (size < kLengthBytes) throw Malformed("", "shorter than a safetensors header");
  std::uint64_t header = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) header |= std::uint64_t{data[i]} << (8 * i);
  if (header > kMaxHeaderBytes || header > size - kLengthBytes) throw Malformed("", "its header is longer than it may be");
  std::string problem;
  const Json value = parse_strict_json(data + kLengthBytes, header, problem);
  if (value.is_discarded()) throw Malformed("", "header: " + problem);
  if (!value.is_object()) throw Malformed("", "header: expected an object");

  const unsigned char* content = data + kLengthBytes + header;
  const std::uint64_t available = size - kLengthBytes - header;
  Tensors tensors;
  std::vector<Span> spans;
  std::uint64_t total = 0;
  for (const auto& [name, entry] : value.items()) {
    if (name == "__metadata__") continue;
    Entry found = read_entry(entry, name, content, available, spans);
    // Tensors that share bytes would multiply the memory a small file takes.
    total += spans.back().end - spans.back().begin;
    if (total > available) throw Malformed(in_quotes(name), "tensors overlap");
    if (found.dtype == "F32") {
      tensors.emplace(name, std::move(found.tensor));
    } else if (found.dtype == "I64" && integers != nullptr) {
      std::vector<std::int64_t> values((found.span.end - found.span.begin) / sizeof(std::int64_t));
      if (!values.empty()) std::memcpy(values.data(), content + found.span.begin, values.size() * sizeof(std::int64_t));
      integers->emplace(name, IntegerTensor{std::move(found.tensor.shape), std::move(values)});
    } else if (left_out != nullptr) {
      left_out->insert(name);
    }
  }
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return a.begin < b.begin || (a.begin == b.begin && a.end < b.end); });
  std::uint64_t at = 0;
  for (const Span& span : spans) {
    if (span.begin != at) throw Malformed("", "tensors overlap or leave a gap");
    at = span.end;
  }
  if (at != available) throw Malformed("", "bytes after the last tensor");
  return tensors;
}

std::vector<unsigned char> safetensors_bytes(const Tensors& tensors) {
  Json header = Json::object();
  std::uint64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t end = at + tensor.values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  std::vector<unsigned char> bytes(kLengthBytes + text.size() + at);
  for (std::size_t i = 0; i < kLengthBytes; ++i) bytes[i] = static_cast<unsigned char>(text.size() >> (8 * i));
  std::memcpy(bytes.data() + kLengthBytes, text.data(), text.size());
  unsigned char* target = bytes.data() + kLengthBytes + text.size();
  for (const auto& [name, tensor] : tensors) {
    const std::size_t length = tensor.values.size() * sizeof(float);
    if (length > 0) std::memcpy(target, tensor.values.data(), length);
    target += length;
  }
  return bytes;
}

}  // namespace dmdkit
