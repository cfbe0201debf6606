#include "npz.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "json_fields.hpp"

#ifdef DMDKIT_HAVE_ZLIB
#include <zlib.h>
#endif

namespace dmdkit {
namespace {

constexpr std::uint64_t kStored = 0;
#ifdef DMDKIT_HAVE_ZLIB
constexpr std::uint64_t kDeflated = 8;
#endif

constexpr std::uint32_t kCentralEntry = 0x02014B50;
constexpr std::uint32_t kLocalEntry = 0x04034B50;
constexpr std::uint32_t kEndOfDirectory = 0x06054B50;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kCentralBytes = 46;
constexpr std::size_t kLocalBytes = 30;
constexpr std::uint16_t kZip64Extra = 1;

// A window on the file whose every access is checked.
class Window {
 public:
  Window(const unsigned char* data, std::size_t size) : data_(data), size_(size) {}

  const unsigned char* bytes(std::uint64_t at, std::uint64_t count) const {
    if (at > size_ || count > size_ - at) throw Malformed("", "a zip entry lies outside the file");
    return data_ + at;
  }
  std::uint64_t number(std::uint64_t at, std::size_t width) const {
    const unsigned char* from = bytes(at, width);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < width; ++i) value |= std::uint64_t{from[i]} << (8 * i);
    return value;
  }
  std::string text(std::uint64_t at, std::uint64_t count) const {
    return std::string(reinterpret_cast<const char*>(bytes(at, count)), count);
  }
  std::size_t size() const { return size_; }

 private:
  const unsigned char* data_;
  std::size_t size_;
};

std::uint64_t find_end(const Window& file) {
  if (file.size() < kEndBytes) throw Malformed("", "shorter than a zip file");
  const std::size_t lowest = file.size() - std::min<std::size_t>(file.size(), kEndBytes + 0xFFFF);
  for (std::size_t at = file.size() - kEndBytes + 1; at-- > lowest;) {
    if (file.number(at, 4) == kEndOfDirectory) return at;
  }
  throw Malformed("", "not a zip file");
}

std::string value_after(const std::string& header, const std::string& key, char open, char close) {
  const std::size_t at = header.find("'" + key + "'");
  const std::size_t begin = at == std::string::npos ? at : header.find(open, at + key.size() + 2);
  const std::size_t end = begin == std::string::npos ? begin : header.find(close, begin + 1);
  if (end == std::string::npos) throw Malformed("", "a member is no .npy array");
  return header.substr(begin + 1, end - begin - 1);
}

std::vector<std::size_t> shape_of(const std::string& text) {
  std::vector<std::size_t> shape;
  std::size_t value = 0;
  bool digits = false;
  for (const char c : text + ",") {
    if (c >= '0' && c <= '9') {
      if (value > (std::size_t{1} << 40)) throw Malformed("", "an array's shape overflows");
      value = value * 10 + static_cast<std::size_t>(c - '0');
      digits = true;
    } else if (c == ',') {
      if (digits) shape.push_back(value);
      value = 0;
      digits = false;
    } else if (c != ' ') {
      throw Malformed("", "an array has no shape");
    }
  }
  return shape;
}

// One .npy member; false if its type is not one we read.
bool parse_npy(const Window& file, const std::string& name, Tensor& tensor) {
  const std::uint64_t size = file.size();
  if (size < 12 || file.text(0, 6) != "\x93NUMPY") throw Malformed(in_quotes(name), "is no .npy array");
  const std::size_t width = file.number(6, 1) == 1 ? 2 : 4;
  const std::uint64_t header_bytes = file.number(8, width);
  const std::uint64_t start = 8 + width + header_bytes;
  if (start > size) throw Malformed(in_quotes(name), "its header is longer than it is");
  const std::string header = file.text(8 + width, header_bytes);
  const std::string type = value_after(header, "descr", '\'', '\'');
  if (type != "<f4" && type != "<f8") return false;
  if (header.find("'fortran_order': False") == std::string::npos) throw Malformed(in_quotes(name), "is not in C order");
  tensor.shape = shape_of(value_after(header, "shape", '(', ')'));
  const std::size_t item = type == "<f4" ? 4 : 8;
  std::uint64_t count = 1;
  for (const std::size_t extent : tensor.shape) {
    if (extent != 0 && count > size / extent) throw Malformed(in_quotes(name), "its data does not fit its shape");
    count *= extent;
  }
  if (count * item != size - start) throw Malformed(in_quotes(name), "its data does not fit its shape");
  const unsigned char* from = file.bytes(start, count * item);
  tensor.values.resize(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (item == 4) {
      std::memcpy(&tensor.values[i], from + 4 * i, 4);
    } else {
      double value;
      std::memcpy(&value, from + 8 * i, 8);
      tensor.values[i] = static_cast<float>(value);
    }
  }
  return true;
}

// The 64-bit size or offset that replaces 0xFFFFFFFF; `index` counts the replaced fields.
std::uint64_t zip64(const Window& file, std::uint64_t extra, std::uint64_t extra_bytes, std::size_t index) {
  for (std::uint64_t at = extra; at + 4 <= extra + extra_bytes; at += 4 + file.number(at + 2, 2)) {
    if (file.number(at, 2) == kZip64Extra && file.number(at + 2, 2) >= 8 * (index + 1))
      return file.number(at + 4 + 8 * index, 8);
  }
  throw Malformed("", "a zip64 entry lacks its size");
}

#ifdef DMDKIT_HAVE_ZLIB
// Exactly `length` bytes out of a deflated member.
std::vector<unsigned char> inflated(const unsigned char* from, std::uint64_t packed, std::uint64_t length,
                                    const std::string& name) {
  // What the format can give at most: a longer claim is a lie, and is refused before memory is taken for it.
  if (length / kMaxInflation > packed || packed > 0xFFFFFFFF || length > 0xFFFFFFFF) {
    throw Malformed(in_quotes(name), "claims more data than it can hold");
  }
  std::vector<unsigned char> bytes(length);
  unsigned char nowhere = 0;  // for an empty member, because zlib wants an address
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  stream.next_in = const_cast<unsigned char*>(from);
  stream.avail_in = static_cast<uInt>(packed);
  stream.next_out = bytes.empty() ? &nowhere : bytes.data();
  stream.avail_out = static_cast<uInt>(length);
  const int code = inflate(&stream, Z_FINISH);
  const bool whole = code == Z_STREAM_END && stream.avail_in == 0 && stream.total_out == length;
  inflateEnd(&stream);
  if (!whole) throw Malformed(in_quotes(name), "its compressed data is damaged");
  return bytes;
}
#endif

}  // namespace

Tensors parse_npz(const unsigned char* data, std::size_t size, std::set<std::string>* left_out) {
  const Window file(data, size);
  const std::uint64_t end = find_end(file);
  const std::uint64_t entries = file.number(end + 10, 2);
  std::uint64_t at = file.number(end + 16, 4);
  Tensors tensors;
  std::uint64_t total = 0;
  for (std::uint64_t i = 0; i < entries; ++i) {
    if (file.number(at, 4) != kCentralEntry) throw Malformed("", "damaged zip directory");
    const std::uint64_t name_bytes = file.number(at + 28, 2);
    const std::uint64_t extra_bytes = file.number(at + 30, 2);
    std::string name = file.text(at + kCentralBytes, name_bytes);
    const std::uint64_t method = file.number(at + 10, 2);
#ifdef DMDKIT_HAVE_ZLIB
    if (method != kStored && method != kDeflated) {
      throw Malformed(in_quotes(name), "is compressed in a way numpy does not use; save with numpy.savez");
    }
#else
    if (method != kStored) {
      throw Malformed(in_quotes(name), "is compressed, and this build has no zlib; save with numpy.savez");
    }
#endif
    const std::uint64_t extra = at + kCentralBytes + name_bytes;
    std::size_t replaced = 0;
    std::uint64_t length = file.number(at + 24, 4);
    if (length == 0xFFFFFFFF) length = zip64(file, extra, extra_bytes, replaced++);
    std::uint64_t packed = file.number(at + 20, 4);
    if (packed == 0xFFFFFFFF) packed = zip64(file, extra, extra_bytes, replaced++);
    if (method == kStored && packed != length) throw Malformed(in_quotes(name), "damaged zip entry");
    std::uint64_t local = file.number(at + 42, 4);
    if (local == 0xFFFFFFFF) local = zip64(file, extra, extra_bytes, replaced);
    if (file.number(local, 4) != kLocalEntry) throw Malformed(in_quotes(name), "damaged zip entry");
    const std::uint64_t start = local + kLocalBytes + file.number(local + 26, 2) + file.number(local + 28, 2);
    const unsigned char* from = file.bytes(start, packed);
    total += packed;
    if (total > size) throw Malformed("", "zip entries overlap");
    Tensor tensor;
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
    Window member(from, packed);
#ifdef DMDKIT_HAVE_ZLIB
    std::vector<unsigned char> bytes;
    if (method == kDeflated) {
      bytes = inflated(from, packed, length, name);
      member = Window(bytes.data(), bytes.size());
    }
#endif
    if (parse_npy(member, name, tensor)) {
      tensors[name] = std::move(tensor);
    } else if (left_out != nullptr) {
      left_out->insert(name);
    }
    at += kCentralBytes + name_bytes + extra_bytes + file.number(at + 32, 2);
  }
  return tensors;
}

}  // namespace dmdkit
