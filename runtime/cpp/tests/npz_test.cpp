#include "npz.hpp"

#include <gtest/gtest.h>

#include "json_fields.hpp"

#ifdef DMDKIT_HAVE_ZLIB
#include <zlib.h>
#endif

namespace dmdkit {
namespace {

void put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

std::string npy(const std::string& header, std::size_t data_bytes) {
  std::string member = std::string("\x93NUMPY\x01", 7) + std::string(1, '\0');
  put(member, header.size(), 2);
  return member + header + std::string(data_bytes, '\0');
}

// A zip with one member, as numpy lays it out; `claimed` is its size when unpacked.
std::string zip(const std::string& name, const std::string& member, std::size_t claimed, int method) {
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
  put(out, claimed, 4);
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

std::string npz(const std::string& name, const std::string& header, std::size_t data_bytes, int method = 0) {
  const std::string member = npy(header, data_bytes);
  return zip(name, member, member.size(), method);
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

#ifdef DMDKIT_HAVE_ZLIB
std::string deflated(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

TEST(NpzTest, ReadsACompressedArray) {
  const std::string member = npy(kHeader, 24);
  const Tensors found = parse(zip("text.npy", deflated(member), member.size(), 8));
  EXPECT_EQ(found.at("text").shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(found.at("text").values, std::vector<float>(6));
}

TEST(NpzTest, RefusesCompressedDataThatIsDamagedOrLies) {
  const std::string member = npy(kHeader, 24);
  const std::string packed = deflated(member);
  EXPECT_THROW(parse(zip("text.npy", packed, member.size() - 1, 8)), Malformed);
  EXPECT_THROW(parse(zip("text.npy", packed, member.size() + 1, 8)), Malformed);
  EXPECT_THROW(parse(zip("text.npy", packed.substr(0, packed.size() - 1), member.size(), 8)), Malformed);
  EXPECT_THROW(parse(zip("text.npy", packed + "x", member.size(), 8)), Malformed);
  EXPECT_THROW(parse(zip("text.npy", packed, 0xFFFFFFF0, 8)), Malformed) << "four gigabytes out of a few bytes";
  EXPECT_THROW(parse(zip("text.npy", packed, member.size(), 9)), Malformed);
  EXPECT_THROW(parse(zip("text.npy", "", 0, 8)), Malformed);
}

TEST(NpzTest, ReadsTheMostThatFewBytesCanGive) {
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,), }\n";
  const std::string member = npy(header, 4000000);
  EXPECT_EQ(parse(zip("text.npy", deflated(member), member.size(), 8)).at("text").values.size(), 1000000U);
}
#endif

}  // namespace
}  // namespace dmdkit
