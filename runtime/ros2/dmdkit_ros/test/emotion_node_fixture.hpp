// The node with stand-ins for ROS around it (runtime/ros2/stand_in): made, fed and heard in one process.
#ifndef DMDKIT_ROS_TEST_EMOTION_NODE_FIXTURE_HPP_
#define DMDKIT_ROS_TEST_EMOTION_NODE_FIXTURE_HPP_
#include <algorithm>
#include <limits>
#include <rclcpp_components/register_node_macro.hpp>

#include "bundle_fixture.hpp"
#include "diagnostic_msgs/msg/diagnostic_array.hpp"
#include "dmdkit_ros/msg/emotion.hpp"
#include "dmdkit_ros/msg/explanation.hpp"
#include "dmdkit_ros/msg/features.hpp"
#include "dmdkit_ros/msg/info.hpp"
#include "dmdkit_ros/parameters.hpp"
#include "hri_msgs/msg/live_speech.hpp"
#include "std_msgs/msg/string.hpp"

namespace dmdkit {

using diagnostic_msgs::msg::DiagnosticArray;
using diagnostic_msgs::msg::DiagnosticStatus;
using dmdkit_ros::msg::Emotion;
using dmdkit_ros::msg::Explanation;
using dmdkit_ros::msg::Features;
using dmdkit_ros::msg::Info;
using rclcpp::Parameter;

inline constexpr std::int64_t kSecond = 1'000'000'000;
inline constexpr std::uint8_t kUnconfigured = 1, kInactive = 2, kActive = 3;

template <typename T>
std::vector<std::shared_ptr<const T>> heard_on(const std::string& topic) {
  std::vector<std::shared_ptr<const T>> found;
  for (const auto& [name, message] : stand_in::middleware().published) {
    if (name == topic) found.push_back(std::static_pointer_cast<const T>(message));
  }
  return found;
}

class EmotionNodeTest : public BundleTest {
 protected:
  void SetUp() override {
    BundleTest::SetUp();
    stand_in::middleware() = stand_in::Middleware();
    stand_in::clocks() =
        stand_in::Clocks{stand_in::clocks().system_ns, stand_in::clocks().steady_ns + 3600 * kSecond, false, 0};
    stand_in::log_lines().clear();
    given = {Parameter("bundle", folder), Parameter("backend", "fake")};
  }

  void make() {
    node = stand_in::components().at("dmdkit_ros::EmotionNode")(node_options.parameter_overrides(given));
    executor = rclcpp::executors::SingleThreadedExecutor();
    executor.add_node(node->get_node_base_interface());
  }

  void make_active() {
    make();
    ASSERT_EQ(node->configure().id(), kInactive);
    ASSERT_EQ(node->activate().id(), kActive);
  }

  void replace(const std::string& name, const rclcpp::ParameterValue& value) {
    given.erase(std::remove_if(given.begin(), given.end(), [&](const Parameter& other) { return other.get_name() == name; }),
                given.end());
    given.emplace_back(name, value);
  }

  Features features(float value = 0.3F) const {
    Features message;
    message.header.stamp = rclcpp::Time(stand_in::clocks().system_ns);
    message.header.frame_id = "face";
    message.text.assign(kTextSize, value);
    message.audio.assign(kAudioSize, value);
    message.vision.assign(kVisionSize, value);
    return message;
  }

  void send(const Features& message) {
    if (!speaker) speaker = stand_in::middleware().write("/emotion/features", speaker_qos);
    stand_in::middleware().publish(*speaker, std::make_shared<const Features>(message));
  }

  DiagnosticStatus diagnostics() {
    stand_in::clocks().steady_ns += kSecond;
    executor.spin_some();
    const auto all = heard_on<DiagnosticArray>("/diagnostics");
    return all.empty() ? DiagnosticStatus() : all.back()->status.at(0);
  }

  static std::string value_of(const DiagnosticStatus& status, const std::string& key) {
    for (const auto& entry : status.values) {
      if (entry.key == key) return entry.value;
    }
    return "missing";
  }

  static std::size_t logged(const std::string& severity, const std::string& text) {
    return static_cast<std::size_t>(std::count_if(
        stand_in::log_lines().begin(), stand_in::log_lines().end(),
        [&](const stand_in::LogLine& line) { return line.severity == severity && line.text.find(text) != std::string::npos; }));
  }

  std::vector<Parameter> given;
  rclcpp::NodeOptions node_options;
  rclcpp::QoS speaker_qos = rclcpp::SensorDataQoS();
  std::shared_ptr<stand_in::Writer> speaker;
  std::shared_ptr<rclcpp_lifecycle::LifecycleNode> node;
  rclcpp::executors::SingleThreadedExecutor executor;
};

}  // namespace dmdkit

#endif  // DMDKIT_ROS_TEST_EMOTION_NODE_FIXTURE_HPP_
