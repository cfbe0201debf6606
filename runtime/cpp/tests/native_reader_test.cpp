// What the native backend reads: ONNX files and plans, whole or not.
#include <gtest/gtest.h>

#include <string>

#include "../backends/native/onnx_file.hpp"
#include "../backends/native/plan.hpp"
#include "../backends/plugin.hpp"
#include "native_model.hpp"

namespace dmdkit_native {
namespace {

std::string tensor(const std::string& name, std::uint64_t type, const std::string& data,
                   const std::vector<std::uint64_t>& dims) {
  std::string bytes;
  for (const std::uint64_t size : dims) bytes += field(1, size);
  return bytes + field(2, type) + field(8, name) + field(9, data);
}

std::string model_with(const std::string& tensors, const std::string& plan = "p") {
  return field(7, tensors) + field(14, field(1, "other") + field(2, "x")) + field(14, field(1, "dmdkit.plan") + field(2, plan));
}

OnnxFile read(const std::string& bytes) { return read_onnx(bytes.data(), bytes.size()); }

std::string why_not(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const dmdkit_plugin::Problem& problem) {
    return problem.what();
  }
  return "";
}

TEST(OnnxFileTest, FindsInitialisersAndThePlan) {
  const std::string floats(12, '\0');
  const std::string packed = field(1, varint(3)) + field(2, 1) + field(8, "packed") + field(9, floats);
  const std::string bytes =
      model_with(field(5, tensor("w", 1, floats, {3, 1})) + field(5, tensor("q", 3, "abc", {3})) + field(5, packed) +
                 field(5, tensor("other", 7, std::string(8, 'x'), {1})) + field(1, field(3, "a node")));
  const OnnxFile file = read(bytes);
  EXPECT_EQ(file.plan, "p");
  EXPECT_EQ(file.initialisers.at("w").type, DataType::kFloat);
  EXPECT_EQ(file.initialisers.at("w").dims, (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(file.initialisers.at("q").elements, 3U);
  EXPECT_EQ(file.initialisers.at("q").data[2], 'c');
  EXPECT_EQ(file.initialisers.at("packed").elements, 3U);
  EXPECT_EQ(file.initialisers.at("other").data, nullptr);
}

TEST(OnnxFileTest, RefusesEveryTruncationWithinTheGraph) {
  const std::string bytes = field(7, field(5, tensor("w", 1, std::string(8, 'x'), {2})));
  EXPECT_EQ(why_not(bytes), "");
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_NE(why_not(bytes.substr(0, size)), "") << size;
}

TEST(OnnxFileTest, RefusesWhatDoesNotFit) {
  const std::string eight(8, 'x');
  EXPECT_NE(why_not("").find("no graph"), std::string::npos);
  EXPECT_NE(why_not(model_with(field(5, tensor("w", 1, eight, {3})))).find("another size"), std::string::npos);
  EXPECT_NE(why_not(model_with(field(5, tensor("w", 1, eight, {2})) + field(5, tensor("w", 1, eight, {2})))).find("two"),
            std::string::npos);
  EXPECT_NE(why_not(model_with(field(5, tensor("w", 1, eight, {1ULL << 31, 1ULL << 31})))).find("beyond"), std::string::npos);
  EXPECT_NE(why_not(model_with(field(5, tensor("w", 1, "", {0x7fffffff, 0x7fffffff, 0x7fffffff})))).find("beyond"),
            std::string::npos);
  EXPECT_NE(why_not(model_with(field(5, tensor("w", 1, eight, {2}) + field(14, 1)))).find("another file"), std::string::npos);
  EXPECT_NE(why_not(model_with("") + model_with("")).find("two graphs"), std::string::npos);
  EXPECT_NE(why_not(std::string("\x3b", 1)).find("type"), std::string::npos);  // a group, which ONNX has none of
  EXPECT_NE(why_not(std::string(11, '\xff')).find("64 bits"), std::string::npos);
  EXPECT_NE(why_not(std::string("\x00\x01", 2)).find("number"), std::string::npos);
}

constexpr const char kPlan[] =
    "dmdkit plan 1\nwidth 8\nheads 2\noutputs 1\nlevels 1\nmemory_levels 3\n"
    "text.steps 5\ntext.features 3\ntext.kernel 2\nvision.steps 5\nvision.features 3\nvision.kernel 1\n"
    "audio.steps 5\naudio.features 3\naudio.kernel 5\n";

std::string why_no_plan(const std::string& text) {
  try {
    parse_plan(text);
  } catch (const dmdkit_plugin::Problem& problem) {
    return problem.what();
  }
  return "";
}

TEST(PlanTest, SaysSizesAndWhichInitialiserIsWhat) {
  const Plan plan =
      parse_plan(std::string(kPlan) + "text.encode weight=c1 scale=c2 bias=c3 bias_scale=c4 row=16 transposed=1\n");
  EXPECT_EQ(plan.width, 8);
  EXPECT_EQ(plan.inputs[kAudio].projected(), 1);
  const Reference& found = plan.references.at("text.encode");
  EXPECT_EQ(found.weight + found.scale + found.bias + found.bias_scale, "c1c2c3c4");
  EXPECT_EQ(found.row, 16);
  EXPECT_TRUE(found.transposed);
}

TEST(PlanTest, AnotherVersionIsSaidToBeOne) {
  EXPECT_NE(why_no_plan("").find("export the bundle again"), std::string::npos);
  EXPECT_NE(why_no_plan("dmdkit plan 2\n").find("'dmdkit plan 2'"), std::string::npos);
}

TEST(PlanTest, RefusesWhatItDoesNotUnderstand) {
  const std::string good = kPlan;
  EXPECT_EQ(why_no_plan(good), "");
  for (const char* more : {"width 8\n", "width\n", "x\n", "x y=z\n", "x weight=\n", "x weight\n", "x weight=a weight=b\n", "\n",
                           "x weight=a row=-1\n", "x weight=a row=99999999999\n", "x weight=a transposed=2\n", "x scale=a\n",
                           "x weight=a\nx weight=b\n"}) {
    EXPECT_NE(why_no_plan(good + more), "") << more;
  }
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_NE(why_no_plan(changed("heads 2", "heads 3")).find("divide"), std::string::npos);
  EXPECT_NE(why_no_plan(changed("width 8", "width 0")), "");
  EXPECT_NE(why_no_plan(changed("width 8", "width 99999999")), "");
  EXPECT_NE(why_no_plan(changed("audio.kernel 5", "audio.kernel 6")).find("too long"), std::string::npos);
  EXPECT_NE(why_no_plan(changed("levels 1\n", "")).find("lacks"), std::string::npos);
}

}  // namespace
}  // namespace dmdkit_native
