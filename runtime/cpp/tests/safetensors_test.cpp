#include "safetensors.hpp"

#include <gtest/gtest.h>

#include <string>

#include "json_fields.hpp"

namespace dmdkit {
namespace {

std::vector<unsigned char> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<unsigned char> bytes;
  for (std::size_t i = 0; i < 8; ++i) bytes.push_back(static_cast<unsigned char>(header.size() >> (8 * i)));
  for (const char c : header) bytes.push_back(static_cast<unsigned char>(c));
  for (std::size_t i = 0; i < data_bytes; ++i) bytes.push_back(0);
  return bytes;
}

std::string problem_of(const std::vector<unsigned char>& bytes) {
  try {
    parse_safetensors(bytes.data(), bytes.size());
  } catch (const Malformed& cause) {
    return cause.what();
  }
  return "";
}

TEST(SafetensorsTest, ReadsWhatItWrote) {
  const Tensors tensors = {{"a", {{2, 2}, {1, 2, 3, 4}}}, {"empty", {{0, 3}, {}}}, {"z", {{1}, {5}}}};
  const auto bytes = safetensors_bytes(tensors);
  const Tensors found = parse_safetensors(bytes.data(), bytes.size());
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found.at("a").values, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(found.at("a").shape, (std::vector<std::size_t>{2, 2}));
  EXPECT_EQ(found.at("z").values[0], 5.0F);
}

TEST(SafetensorsTest, RefusesEveryTruncation) {
  const auto bytes = safetensors_bytes({{"a", {{4}, {1, 2, 3, 4}}}, {"b", {{1}, {5}}}});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(parse_safetensors(bytes.data(), size), Malformed) << size;
  }
}

TEST(SafetensorsTest, RefusesHostileHeaders) {
  const std::string huge = "18446744073709551615";
  const auto tensor = [](const std::string& shape, const std::string& offsets, const std::string& type = "F32") {
    return R"({"a":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[0,8]"), 8)), "");
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[4,0]"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[0," + huge + "]"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[" + huge + "," + huge + "]", "[0,4]"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[4294967296,4294967296]", "[0,0]"), 0)), "");
  EXPECT_NE(problem_of(file_of(tensor("[1e400]", "[0,4]"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[-1]", "[0,4]"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[0,4]", "F64"), 4)), "");
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[0,4]"), 5)), "");  // bytes after the last tensor
  EXPECT_NE(problem_of(file_of(tensor("[1]", "[4,8]"), 8)), "");  // a gap
  EXPECT_EQ(problem_of(file_of(tensor("[1]", "[0,4]"), 4)), "");
}

TEST(SafetensorsTest, ChecksIntegersAndDoublesAndLeavesThemOut) {
  const auto ids = [](const std::string& shape, const std::string& end, const std::string& type = "I64") {
    return R"({"ids":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":[0,)" + end +
           R"(]},"x":{"dtype":"F32","shape":[1],"data_offsets":[)" + end + "," + std::to_string(std::stoi(end) + 4) + "]}}";
  };
  const std::vector<unsigned char> good = file_of(ids("[2]", "16"), 20);
  const Tensors tensors = parse_safetensors(good.data(), good.size());
  EXPECT_EQ(tensors.size(), 1U);
  EXPECT_EQ(tensors.count("x"), 1U);
  std::set<std::string> left_out;
  const std::vector<unsigned char> doubles = file_of(ids("[2]", "16", "F64"), 20);
  EXPECT_EQ(parse_safetensors(doubles.data(), doubles.size(), &left_out).size(), 1U);
  EXPECT_EQ(left_out, std::set<std::string>{"ids"});
  EXPECT_NE(problem_of(file_of(ids("[2]", "8"), 12)), "");
  EXPECT_NE(problem_of(file_of(ids("[4611686018427387903]", "16"), 20)), "");
}

TEST(SafetensorsTest, RefusesTensorsThatShareBytes) {
  const std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_NE(problem_of(file_of("{\"a\":" + entry + ",\"b\":" + entry + "}", 4)), "");
}

TEST(SafetensorsTest, RefusesAHeaderLongerThanTheFile) {
  std::vector<unsigned char> bytes(16, 0xFF);
  EXPECT_NE(problem_of(bytes), "");
}

}  // namespace
}  // namespace dmdkit
