#include "npz.hpp"

#include <gtest/gtest.h>

#include "json_fields.hpp"

namespace dmdkit {
namespace {

void put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

// A zip with one stored member, as numpy.savez lays it out.
std::string npz(const std::string& name, const std::string& header, std::size_t data_bytes, int method = 0) {
  std::string member = std::string("\x93NUMPY\x01", 7) + std::string(1, '\0');
  put(member, header.size(), 2);
  member += header + std::string(data_bytes, '\0');
  std::string out;
  put(out, 0x04034B50, 4);
  out += std::string(22, '\0');
  put(out, name.size(), 2);
  put(out, 0, 2);
  out += name + member;
  const std::size_t directory = out.size();
  put(out, 0x02014B50, 4);
  out += std::string(6, '\0');
  put(out, static_cast<std::uint64_t>(method), 2);
  out += std::string(8, '\0');
  put(out, member.size(), 4);
  put(out, member.size(), 4);
  put(out, name.size(), 2);
  out += std::string(16, '\0');
  out += name;
  const std::size_t size = out.size() - directory;
  put(out, 0x06054B50, 4);
  out += std::string(4, '\0');
  put(out, 1, 2);
  put(out, 1, 2);
  put(out, size, 4);
  put(out, directory, 4);
  put(out, 0, 2);
  return out;
}

Tensors parse(const std::string& file) { return parse_npz(reinterpret_cast<const unsigned char*>(file.data()), file.size()); }

constexpr char kHeader[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

TEST(NpzTest, ReadsAStoredArray) {
  const Tensors found = parse(npz("text.npy", kHeader, 24));
  EXPECT_EQ(found.at("text").shape, (std::vector<std::size_t>{2, 3}));
}

TEST(NpzTest, LeavesOtherTypesOut) {
  EXPECT_TRUE(parse(npz("ids.npy", "{'descr': '<U9', 'fortran_order': False, 'shape': (2,), }\n", 72)).empty());
}

TEST(NpzTest, RefusesCompressionTruncationAndLies) {
  EXPECT_THROW(parse(npz("text.npy", kHeader, 24, 8)), Malformed);
  EXPECT_THROW(parse(npz("text.npy", kHeader, 20)), Malformed);
  EXPECT_THROW(parse(npz("text.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 9), }\n", 24)),
               Malformed);
  const std::string whole = npz("text.npy", kHeader, 24);
  for (std::size_t size = 0; size < whole.size(); ++size) EXPECT_THROW(parse(whole.substr(0, size)), Malformed) << size;
}

}  // namespace
}  // namespace dmdkit
