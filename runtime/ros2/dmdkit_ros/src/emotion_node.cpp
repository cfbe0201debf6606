// The lifecycle node: ROS around EmotionLogic. Opening happens in configure, so that a damaged bundle is a failed transition
// and not a dead process; predictions happen only while active.
#include <algorithm>
#include <chrono>
#include <diagnostic_msgs/msg/diagnostic_array.hpp>
#include <diagnostic_msgs/msg/key_value.hpp>
#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <rclcpp_components/register_node_macro.hpp>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <string>
#include <utility>

#include "dmdkit_ros/emotion_logic.hpp"
#include "dmdkit_ros/msg/emotion.hpp"
#include "dmdkit_ros/msg/explanation.hpp"
#include "dmdkit_ros/msg/features.hpp"

namespace dmdkit_ros {

class EmotionNode : public rclcpp_lifecycle::LifecycleNode {
 public:
  using Return = rclcpp_lifecycle::node_interfaces::LifecycleNodeInterface::CallbackReturn;

  explicit EmotionNode(const rclcpp::NodeOptions& options) : LifecycleNode("emotion", options) {
    declare_parameter<std::string>("bundle", "");
    declare_parameter<std::string>("graph", "");
    declare_parameter<std::string>("device", "auto");
    declare_parameter<std::string>("backend", "onnxruntime");
    declare_parameter<std::string>("affinity", "");
    declare_parameter<int>("threads", 1);
    declare_parameter<int>("deadline_us", 0);
    declare_parameter<bool>("spin", false);
    declare_parameter<bool>("self_check", true);
    declare_parameter<int>("explain_every", 0);
    declare_parameter<double>("max_age_ms", 0.0);
    declare_parameter<double>("diagnostics_period_s", 1.0);
  }

 private:
  Return on_configure(const rclcpp_lifecycle::State&) override {
    auto logic = EmotionLogic::open(settings());
    if (!logic) {
      RCLCPP_ERROR(get_logger(), "%s", logic.status().message().c_str());
      return Return::FAILURE;
    }
    logic_ = std::make_unique<EmotionLogic>(std::move(*logic));
    emotion_ = create_publisher<msg::Emotion>("~/emotion", rclcpp::SensorDataQoS());
    explanation_ = create_publisher<msg::Explanation>("~/explanation", rclcpp::SensorDataQoS());
    diagnostics_ = create_publisher<diagnostic_msgs::msg::DiagnosticArray>("/diagnostics", rclcpp::SystemDefaultsQoS());
    // The newest features only: a queue of old ones is of no use to a control loop.
    features_ = create_subscription<msg::Features>("~/features", rclcpp::SensorDataQoS().keep_last(1),
                                                   [this](msg::Features::ConstSharedPtr features) { take(*features); });
    RCLCPP_INFO(get_logger(), "%s ready: %s in %s", get_parameter("bundle").as_string().c_str(),
                logic_->runtime().graph().c_str(), logic_->runtime().backend().c_str());
    return Return::SUCCESS;
  }

  Return on_activate(const rclcpp_lifecycle::State& state) override {
    LifecycleNode::on_activate(state);
    const std::chrono::duration<double> period(std::max(0.1, get_parameter("diagnostics_period_s").as_double()));
    timer_ = create_wall_timer(period, [this] { publish_diagnostics(); });
    active_ = true;
    return Return::SUCCESS;
  }

  Return on_deactivate(const rclcpp_lifecycle::State& state) override {
    active_ = false;
    timer_.reset();
    LifecycleNode::on_deactivate(state);
    return Return::SUCCESS;
  }

  Return on_cleanup(const rclcpp_lifecycle::State&) override {
    release();
    return Return::SUCCESS;
  }

  Return on_shutdown(const rclcpp_lifecycle::State&) override {
    release();
    return Return::SUCCESS;
  }

  Return on_error(const rclcpp_lifecycle::State&) override {
    release();
    return Return::SUCCESS;
  }

  void release() {
    active_ = false;
    timer_.reset();
    features_.reset();
    emotion_.reset();
    explanation_.reset();
    diagnostics_.reset();
    logic_.reset();
  }

  Settings settings() {
    Settings settings;
    settings.bundle = get_parameter("bundle").as_string();
    settings.runtime.graph = get_parameter("graph").as_string();
    settings.runtime.device = get_parameter("device").as_string();
    settings.runtime.backend = get_parameter("backend").as_string();
    settings.runtime.affinity = get_parameter("affinity").as_string();
    settings.runtime.threads = static_cast<int>(get_parameter("threads").as_int());
    settings.runtime.deadline_us = positive("deadline_us");
    settings.runtime.spin = get_parameter("spin").as_bool();
    settings.self_check = get_parameter("self_check").as_bool();
    settings.explain_every = static_cast<std::uint32_t>(positive("explain_every"));
    settings.max_age_ms = get_parameter("max_age_ms").as_double();
    return settings;
  }

  std::uint64_t positive(const char* name) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_parameter(name).as_int()));
  }

  void take(const msg::Features& features) {
    if (!active_) return;
    Sample sample;
    sample.modalities = {Modality{features.text, features.text_absent}, Modality{features.audio, features.audio_absent},
                         Modality{features.vision, features.vision_absent}};
    sample.age_ms = (now() - rclcpp::Time(features.header.stamp, get_clock()->get_clock_type())).seconds() * 1e3;
    const Answer answer = logic_->handle(sample);
    if (!answer.problem.empty()) {
      RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), 1000, "%s", answer.problem.c_str());
    }
    if (answer.outcome != Answer::Outcome::kPredicted) return;
    auto out = std::make_unique<msg::Emotion>();
    out->header = features.header;
    out->score.assign(answer.prediction.score.begin(), answer.prediction.score.end());
    out->latency_ms = static_cast<float>(answer.prediction.latency_ms);
    out->deadline_missed = answer.prediction.deadline_missed;
    std::copy(answer.prediction.out_of_range.begin(), answer.prediction.out_of_range.end(), out->out_of_range.begin());
    emotion_->publish(std::move(out));
    if (answer.explained) publish_explanation(features, answer.explanation);
  }

  void publish_explanation(const msg::Features& features, const dmdkit::Explanation& found) {
    auto out = std::make_unique<msg::Explanation>();
    out->header = features.header;
    out->modality_order = logic_->runtime().modality_order();
    out->logit_homo.assign(found.logit_homo.begin(), found.logit_homo.end());
    out->logit_hetero.assign(found.logit_hetero.begin(), found.logit_hetero.end());
    out->edge_order = logic_->runtime().edge_order();
    out->edges_homo.assign(found.edges_homo.begin(), found.edges_homo.end());
    out->edges_hetero.assign(found.edges_hetero.begin(), found.edges_hetero.end());
    explanation_->publish(std::move(out));
  }

  void publish_diagnostics() {
    const Report report = logic_->report();
    diagnostic_msgs::msg::DiagnosticStatus status;
    status.level = static_cast<decltype(status.level)>(report.level);
    status.name = std::string(get_fully_qualified_name()) + ": predictions";
    status.hardware_id = logic_->runtime().name();
    status.message = report.message;
    for (const auto& [key, value] : report.values) {
      diagnostic_msgs::msg::KeyValue entry;
      entry.key = key;
      entry.value = value;
      status.values.push_back(entry);
    }
    auto out = std::make_unique<diagnostic_msgs::msg::DiagnosticArray>();
    out->header.stamp = now();
    out->status.push_back(status);
    diagnostics_->publish(std::move(out));
  }

  std::unique_ptr<EmotionLogic> logic_;
  rclcpp_lifecycle::LifecyclePublisher<msg::Emotion>::SharedPtr emotion_;
  rclcpp_lifecycle::LifecyclePublisher<msg::Explanation>::SharedPtr explanation_;
  rclcpp_lifecycle::LifecyclePublisher<diagnostic_msgs::msg::DiagnosticArray>::SharedPtr diagnostics_;
  rclcpp::Subscription<msg::Features>::SharedPtr features_;
  rclcpp::TimerBase::SharedPtr timer_;
  bool active_ = false;  // callbacks of one node are never run at once, unless it is given a group that allows it
};

}  // namespace dmdkit_ros

RCLCPP_COMPONENTS_REGISTER_NODE(dmdkit_ros::EmotionNode)
