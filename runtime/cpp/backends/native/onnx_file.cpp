#include "onnx_file.hpp"

#include <limits>
#include <utility>

#include "../plugin.hpp"

namespace dmdkit_native {
namespace {

constexpr const char kPlanKey[] = "dmdkit.plan";
constexpr std::size_t kMostDims = 8;

[[noreturn]] void refuse(const std::string& why) {
  throw dmdkit_plugin::Problem(DMDKIT_BACKEND_FAILED, "not an ONNX file the native kernels can read: " + why);
}

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One message of protobuf's wire format, field by field.
class Message {
 public:
  Message(const std::uint8_t* begin, const std::uint8_t* end) : at_(begin), end_(end) {}

  // Moves to the next field; false at the end. Its value must be taken before the next call, or skip()ped.
  bool next() {
    if (at_ == end_) return false;
    const std::uint64_t key = varint();
    if (key >> 3 == 0 || key > std::numeric_limits<std::uint32_t>::max()) refuse("a field without a number");
    field_ = static_cast<std::uint32_t>(key >> 3);
    type_ = static_cast<std::uint32_t>(key & 7);
    return true;
  }

  bool more() const { return at_ != end_; }
  std::uint32_t field() const { return field_; }
  std::uint32_t type() const { return type_; }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) refuse("it ends within a number");
      const std::uint8_t byte = *at_++;
      if (shift == 63 && byte > 1) refuse("a number longer than 64 bits");
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    refuse("a number longer than 64 bits");
  }

  std::uint64_t number() {
    expect(kVarint);
    return varint();
  }

  std::pair<const std::uint8_t*, const std::uint8_t*> bytes() {
    expect(kBytes);
    const std::uint64_t size = varint();
    if (size > static_cast<std::uint64_t>(end_ - at_)) refuse("it ends within a field");
    const std::uint8_t* begin = at_;
    at_ += size;
    return {begin, at_};
  }

  std::string text() {
    const auto [begin, end] = bytes();
    return std::string(begin, end);
  }

  Message message() {
    const auto [begin, end] = bytes();
    return Message(begin, end);
  }

  void skip() {
    switch (type_) {
      case kVarint:
        varint();
        break;
      case kBytes:
        bytes();
        break;
      case kFixed64:
      case kFixed32: {
        const std::ptrdiff_t size = type_ == kFixed64 ? 8 : 4;
        if (end_ - at_ < size) refuse("it ends within a field");
        at_ += size;
        break;
      }
      default:
        refuse("a field of a type that ONNX does not use");
    }
  }

 private:
  void expect(WireType type) const {
    if (type_ != type) refuse("a field of the wrong type");
  }

  const std::uint8_t* at_;
  const std::uint8_t* end_;
  std::uint32_t field_ = 0;
  std::uint32_t type_ = 0;
};

void add_dim(std::vector<std::int64_t>& dims, std::uint64_t size) {
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max()) || dims.size() == kMostDims) {
    refuse("a tensor with sizes beyond any use");
  }
  dims.push_back(static_cast<std::int64_t>(size));
}

// onnx.proto: TensorProto.
void read_tensor(Message message, std::map<std::string, Tensor>& found) {
  Tensor tensor;
  std::string name;
  std::size_t bytes = 0;
  std::uint64_t type = 0;
  while (message.next()) {
    if (message.field() == 1 && message.type() == kVarint) {
      add_dim(tensor.dims, message.number());
    } else if (message.field() == 1) {
      for (Message packed = message.message(); packed.more();) add_dim(tensor.dims, packed.varint());
    } else if (message.field() == 2) {
      type = message.number();
    } else if (message.field() == 8) {
      name = message.text();
    } else if (message.field() == 9) {
      const auto [begin, end] = message.bytes();
      tensor.data = begin;
      bytes = static_cast<std::size_t>(end - begin);
    } else if (message.field() == 14) {
      if (message.number() != 0) refuse("tensor '" + name + "' has its data in another file");
    } else {
      message.skip();
    }
  }
  tensor.elements = 1;
  for (const std::int64_t size : tensor.dims) {
    if (size != 0 && tensor.elements > (std::size_t{1} << 40) / static_cast<std::size_t>(size))
      refuse("a tensor beyond any use");
    tensor.elements *= static_cast<std::size_t>(size);
  }
  std::size_t width = 0;
  if (type == 1 || type == 6) width = 4;
  if (type == 3) width = 1;
  if (width != 0 && tensor.data != nullptr) {
    if (bytes != tensor.elements * width) refuse("tensor '" + name + "' has another size than its shape says");
    tensor.type = static_cast<DataType>(type);
  } else {
    tensor.data = nullptr;
  }
  if (!found.emplace(name, std::move(tensor)).second) refuse("two initialisers named '" + name + "'");
}

}  // namespace

// onnx.proto: ModelProto, of which field 7 is the graph and field 14 the metadata.
OnnxFile read_onnx(const void* data, std::size_t size) {
  OnnxFile file;
  const auto* begin = static_cast<const std::uint8_t*>(data);
  bool has_graph = false;
  for (Message model(begin, begin + size); model.next();) {
    if (model.field() == 7) {
      if (has_graph) refuse("it has two graphs");
      has_graph = true;
      for (Message graph = model.message(); graph.next();) {
        if (graph.field() == 5) {
          read_tensor(graph.message(), file.initialisers);
        } else {
          graph.skip();
        }
      }
    } else if (model.field() == 14) {
      std::string key;
      std::string value;
      for (Message entry = model.message(); entry.next();) {
        if (entry.field() == 1) {
          key = entry.text();
        } else if (entry.field() == 2) {
          value = entry.text();
        } else {
          entry.skip();
        }
      }
      if (key != kPlanKey) continue;
      if (!file.plan.empty()) refuse("it has two plans");
      file.plan = std::move(value);
    } else {
      model.skip();
    }
  }
  if (!has_graph) refuse("it has no graph");
  return file;
}

}  // namespace dmdkit_native
