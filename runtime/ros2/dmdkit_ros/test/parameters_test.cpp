// Which values the node takes for its parameters, and that config/emotion.yaml says what the code does.
#include "dmdkit_ros/parameters.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <regex>

namespace dmdkit_ros {
namespace {

const ParameterInfo& named(const std::string& name) { return *find_parameter(name); }

std::string refusal(const std::string& name, const Value& given) {
  const auto value = converted(named(name), given);
  return value ? "taken" : value.status().message();
}

TEST(ParametersTest, AnIntegerIsTakenForANumberAndForText) {
  EXPECT_EQ(std::get<double>(*converted(named("max_age_ms"), std::int64_t{50})), 50.0);
  EXPECT_EQ(std::get<std::string>(*converted(named("affinity"), std::int64_t{2})), "2");
  EXPECT_EQ(std::get<std::string>(*converted(named("bundle"), std::int64_t{2024})), "2024");
  EXPECT_EQ(std::get<std::int64_t>(*converted(named("threads"), std::int64_t{2})), 2);
}

TEST(ParametersTest, AnotherTypeIsRefusedWithTheOneThatIsWanted) {
  EXPECT_EQ(refusal("threads", 2.5), "parameter 'threads' is 2.500000: expected an integer, not a number");
  EXPECT_EQ(refusal("spin", std::int64_t{1}), "parameter 'spin' is 1: expected true or false, not an integer");
  EXPECT_EQ(refusal("deadline_us", std::string("8 ms")), "parameter 'deadline_us' is '8 ms': expected an integer, not text");
  EXPECT_NE(refusal("bundle", true).find("put it in quotes"), std::string::npos);
}

TEST(ParametersTest, ANumberOutOfRangeIsRefusedWithTheRange) {
  EXPECT_EQ(refusal("deadline_us", std::int64_t{-5}), "parameter 'deadline_us' is -5: expected 0 to 3600000000");
  EXPECT_EQ(refusal("threads", std::int64_t{0}), "parameter 'threads' is 0: expected 1 to 1024");
  EXPECT_NE(refusal("explain_every", std::numeric_limits<std::int64_t>::max()), "taken");
  EXPECT_NE(refusal("max_age_ms", std::numeric_limits<double>::quiet_NaN()), "taken");
  EXPECT_NE(refusal("diagnostics_period_s", std::int64_t{0}), "taken");
}

TEST(ParametersTest, SettingsHoldEveryValueThatTheLogicReads) {
  const Settings standard = settings_from({});
  EXPECT_EQ(standard.runtime.deadline_us, 8000U);
  EXPECT_TRUE(standard.self_check);
  const Settings settings = settings_from({{"bundle", std::string("face.dmd")},
                                           {"graph", std::string("fp32")},
                                           {"device", std::string("cpu")},
                                           {"backend", std::string("tensorrt")},
                                           {"threads", std::int64_t{3}},
                                           {"affinity", std::string("1;2")},
                                           {"spin", true},
                                           {"deadline_us", std::int64_t{0}},
                                           {"self_check", false},
                                           {"explain_every", std::int64_t{7}},
                                           {"max_age_ms", 20.0}});
  EXPECT_EQ(settings.bundle, "face.dmd");
  EXPECT_EQ(settings.runtime.graph, "fp32");
  EXPECT_EQ(settings.runtime.device, "cpu");
  EXPECT_EQ(settings.runtime.backend, "tensorrt");
  EXPECT_EQ(settings.runtime.threads, 3);
  EXPECT_EQ(settings.runtime.affinity, "1;2");
  EXPECT_EQ(settings.runtime.spin, std::optional<bool>(true));
  EXPECT_EQ(settings.runtime.deadline_us, 0U);
  EXPECT_FALSE(settings.self_check);
  EXPECT_EQ(settings.explain_every, 7U);
  EXPECT_EQ(settings.max_age_ms, 20.0);
}

TEST(ParametersTest, TheYamlFileHasTheDefaultsOfTheCode) {
  std::ifstream file(DMDKIT_ROS_CONFIG);
  ASSERT_TRUE(file) << DMDKIT_ROS_CONFIG;
  const std::regex entry(R"re(^    (\w+): ("?)([^"#]*?)\2 *(#.*)?$)re");
  std::map<std::string, std::string> found;
  for (std::string line; std::getline(file, line);) {
    std::smatch parts;
    if (std::regex_match(line, parts, entry)) found[parts[1]] = parts[3];
  }
  for (const ParameterInfo& info : parameters()) {
    if (info.name == "bundle") continue;  // an argument of the launch files
    ASSERT_EQ(found.count(info.name), 1U) << info.name;
    const std::string& text = found[info.name];
    if (const auto* standard = std::get_if<std::string>(&info.standard)) {
      EXPECT_EQ(text, *standard) << info.name;
    } else if (const auto* flag = std::get_if<bool>(&info.standard)) {
      EXPECT_EQ(text, *flag ? "true" : "false") << info.name;
    } else if (const auto* whole = std::get_if<std::int64_t>(&info.standard)) {
      EXPECT_EQ(text, std::to_string(*whole)) << info.name;
    } else {
      EXPECT_EQ(std::stod(text), std::get<double>(info.standard)) << info.name;
    }
    found.erase(info.name);
  }
  EXPECT_TRUE(found.empty()) << found.begin()->first << " is no parameter of the node";
}

}  // namespace
}  // namespace dmdkit_ros
