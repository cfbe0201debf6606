// The lifecycle node: ROS around EmotionLogic. Opening happens in configure, so that a damaged bundle is a failed transition
// and not a dead process; predictions happen only while active. No exception leaves a callback: it would end every node of a
// container.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <diagnostic_msgs/msg/diagnostic_array.hpp>
#include <diagnostic_msgs/msg/key_value.hpp>
#include <exception>
#include <lifecycle_msgs/msg/state.hpp>
#include <map>
#include <memory>
#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rcl_interfaces/msg/set_parameters_result.hpp>
#include <rclcpp/rclcpp.hpp>
#include <rclcpp_components/register_node_macro.hpp>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <std_msgs/msg/string.hpp>
#include <string>
#include <utility>
#include <vector>

#ifdef DMDKIT_ROS_HRI
#include <hri_msgs/msg/live_speech.hpp>
#endif

#include "dmdkit_ros/emotion_logic.hpp"
#include "dmdkit_ros/msg/emotion.hpp"
#include "dmdkit_ros/msg/explanation.hpp"
#include "dmdkit_ros/msg/features.hpp"
#include "dmdkit_ros/msg/info.hpp"
#include "dmdkit_ros/parameters.hpp"
#include "ros_parameters.hpp"

namespace dmdkit_ros {
namespace {

// Samples that wait are taken and counted when the next prediction starts; only the newest is predicted.
constexpr std::size_t kWaiting = 32;
constexpr int kWarningPeriodMs = 1000;

Sample sample_of(const msg::Features& features, std::int64_t now_ns) {
  Sample sample;
  sample.modalities = {Modality{features.text, features.text_absent}, Modality{features.audio, features.audio_absent},
                       Modality{features.vision, features.vision_absent}};
  sample.age_ms = age_ms(now_ns, features.header.stamp.sec, features.header.stamp.nanosec);
  return sample;
}

}  // namespace

class EmotionNode : public rclcpp_lifecycle::LifecycleNode {
 public:
  using Return = rclcpp_lifecycle::node_interfaces::LifecycleNodeInterface::CallbackReturn;

  explicit EmotionNode(const rclcpp::NodeOptions& options) : LifecycleNode("emotion", options) {
    on_set_ = add_on_set_parameters_callback([this](const std::vector<rclcpp::Parameter>& given) { return check(given); });
    for (const ParameterInfo& info : parameters()) declare(info);
    // Not managed by the lifecycle: a node that could not be configured must be seen.
    diagnostics_ = rclcpp::create_publisher<diagnostic_msgs::msg::DiagnosticArray>(*this, "/diagnostics", rclcpp::QoS(10));
    start_diagnostics();
    const auto autostart = value_of("autostart");
    if (autostart && std::get<bool>(*autostart)) {
      autostart_ = create_wall_timer(std::chrono::milliseconds(0), [this] { guarded([this] { start(); }); });
    }
  }

 private:
  Return on_configure(const rclcpp_lifecycle::State&) override {
    try {
      problem_ = configure_from_parameters();
    } catch (const std::exception& error) {  // an override of a quality of service that does not exist, for one
      problem_ = error.what();
    }
    if (problem_.empty()) return Return::SUCCESS;
    RCLCPP_ERROR(get_logger(), "%s", problem_.c_str());
    release();
    return Return::FAILURE;
  }

  Return on_activate(const rclcpp_lifecycle::State& state) override {
    LifecycleNode::on_activate(state);
    active_ = true;
    return Return::SUCCESS;
  }

  Return on_deactivate(const rclcpp_lifecycle::State& state) override {
    active_ = false;
    LifecycleNode::on_deactivate(state);
    return Return::SUCCESS;
  }

  Return on_cleanup(const rclcpp_lifecycle::State&) override {
    release();
    return Return::SUCCESS;
  }

  Return on_shutdown(const rclcpp_lifecycle::State&) override {
    release();
    timer_.reset();
    return Return::SUCCESS;
  }

  Return on_error(const rclcpp_lifecycle::State&) override {
    release();
    return Return::SUCCESS;
  }

  void release() {
    active_ = false;
    features_.reset();
    words_.reset();
#ifdef DMDKIT_ROS_HRI
    speech_.reset();
#endif
    emotion_.reset();
    explanation_.reset();
    info_.reset();
    logic_.reset();
  }

  // Runs a callback; what it throws becomes a failure that the log and the diagnostics show.
  template <typename Callback>
  void guarded(Callback&& callback) noexcept {
    try {
      callback();
    } catch (const std::exception& error) {
      note(error.what());
    } catch (...) {
      note("an exception that is no std::exception");
    }
  }

  void note(const std::string& problem) noexcept {
    try {
      if (logic_ != nullptr) logic_->add_failure(problem);
      // The steady clock: ROS's own stands still with use_sim_time until somebody publishes /clock.
      RCLCPP_ERROR_THROTTLE(get_logger(), steady_, kWarningPeriodMs, "%s", problem.c_str());
    } catch (...) {  // out of memory while telling; the next callback may succeed
    }
  }

  void start() {
    autostart_->cancel();
    if (configure().id() == lifecycle_msgs::msg::State::PRIMARY_STATE_INACTIVE) activate();
  }

  // Empty, or what is wrong.
  std::string configure_from_parameters() {
    if (!refused_.empty()) return refused_.begin()->second;
    Values values;
    for (const ParameterInfo& info : parameters()) {
      auto value = value_of(info.name);
      if (!value) return value.status().message();
      values[info.name] = *value;
    }
    auto logic = EmotionLogic::open(settings_from(values));
    if (!logic) return logic.status().message();
    logic_ = std::make_unique<EmotionLogic>(std::move(*logic));
    start_diagnostics();

    rclcpp::PublisherOptions overridable;
    overridable.qos_overriding_options = rclcpp::QosOverridingOptions::with_default_policies();
    emotion_ = create_publisher<msg::Emotion>("~/emotion", rclcpp::QoS(10), overridable);
    explanation_ = create_publisher<msg::Explanation>("~/explanation", rclcpp::QoS(10), overridable);
    // Messages inside a process are refused for transient local topics on Humble.
    rclcpp::PublisherOptions latched;
    latched.use_intra_process_comm = rclcpp::IntraProcessSetting::Disable;
    info_ = rclcpp::create_publisher<msg::Info>(*this, "~/info", rclcpp::QoS(1).transient_local(), latched);
    publish_info();
    subscribe();
    RCLCPP_INFO(get_logger(), "%s ready: %s", std::get<std::string>(values["bundle"]).c_str(), logic_->summary().c_str());
    return "";
  }

  void subscribe() {
    rclcpp::SubscriptionOptions options;
    options.qos_overriding_options = rclcpp::QosOverridingOptions::with_default_policies();
    // One way in: the samples that wait inside a process stand in a queue that cannot be emptied from here.
    options.use_intra_process_comm = rclcpp::IntraProcessSetting::Disable;
    options.event_callbacks.message_lost_callback = [this](rclcpp::QOSMessageLostInfo& info) {
      if (logic_ != nullptr && active_) logic_->add_lost(static_cast<std::uint64_t>(info.total_count_change));
    };
    const auto qos = rclcpp::SensorDataQoS().keep_last(kWaiting);
    auto callback = [this](msg::Features::ConstSharedPtr features) { guarded([&] { receive(std::move(features)); }); };
    try {
      features_ = create_subscription<msg::Features>("~/features", qos, callback, options);
    } catch (const rclcpp::UnsupportedEventTypeException&) {
      options.event_callbacks.message_lost_callback = nullptr;  // a middleware that does not count them
      features_ = create_subscription<msg::Features>("~/features", qos, callback, options);
    }
    if (logic_->runtime().has_text_encoder()) listen(options);
  }

  // Words come less often than features, and none may be lost.
  void listen(rclcpp::SubscriptionOptions options) {
    options.event_callbacks.message_lost_callback = nullptr;
    const auto qos = rclcpp::QoS(10);
    words_ = create_subscription<std_msgs::msg::String>(
        "~/words", qos, [this](std_msgs::msg::String::ConstSharedPtr words) { guarded([&] { say(words->data); }); }, options);
#ifdef DMDKIT_ROS_HRI
    speech_ = create_subscription<hri_msgs::msg::LiveSpeech>(
        "~/speech", qos,
        [this](hri_msgs::msg::LiveSpeech::ConstSharedPtr speech) {
          guarded([&] { say(speech->final.empty() ? speech->incremental : speech->final); });
        },
        options);
#endif
  }

  void say(const std::string& sentence) {
    if (active_) logic_->say(sentence, now().nanoseconds());
  }

  // Old features are of no use to a control loop: whatever waits behind `features` supersedes it, and is counted.
  void receive(msg::Features::ConstSharedPtr features) {
    if (!active_) return;
    for (std::size_t i = 1; i < kWaiting; ++i) {
      auto newer = std::make_shared<msg::Features>();
      rclcpp::MessageInfo info;
      if (!features_->take(*newer, info)) break;
      logic_->add_superseded(1);
      features = std::move(newer);
    }
    predict(*features);
  }

  void predict(const msg::Features& features) {
    const Sample sample = sample_of(features, now().nanoseconds());
    const Answer answer = logic_->handle(sample, now().nanoseconds());
    if (!answer.problem.empty()) warn(answer.problem);
    if (answer.outcome != Answer::Outcome::kPredicted) return;
    auto out = std::make_unique<msg::Emotion>();
    out->header = features.header;
    out->score.assign(answer.prediction.score.begin(), answer.prediction.score.end());
    out->latency_ms = static_cast<float>(answer.prediction.latency_ms);
    out->deadline_missed = answer.prediction.deadline_missed;
    std::copy(answer.prediction.out_of_range.begin(), answer.prediction.out_of_range.end(), out->out_of_range.begin());
    emotion_->publish(std::move(out));
    if (answer.explain_due) explain(features, sample);  // whoever waits for the score does not wait for this
  }

  void explain(const msg::Features& features, const Sample& sample) {
    const auto found = logic_->explain(sample);
    if (!found) return warn(found.status().message());
    auto out = std::make_unique<msg::Explanation>();
    out->header = features.header;
    std::copy(dmdkit::kModalityNames.begin(), dmdkit::kModalityNames.end(), out->modality_order.begin());
    out->logit_homo.assign(found->logit_homo.begin(), found->logit_homo.end());
    out->logit_hetero.assign(found->logit_hetero.begin(), found->logit_hetero.end());
    out->edge_order = logic_->runtime().edge_order();
    out->edges_homo.assign(found->edges_homo.begin(), found->edges_homo.end());
    out->edges_hetero.assign(found->edges_hetero.begin(), found->edges_hetero.end());
    explanation_->publish(std::move(out));
  }

  void warn(const std::string& problem) {
    RCLCPP_WARN_THROTTLE(get_logger(), steady_, kWarningPeriodMs, "%s", problem.c_str());
  }

  void publish_info() {
    const dmdkit::Runtime& runtime = logic_->runtime();
    auto out = std::make_unique<msg::Info>();
    out->bundle = std::get<std::string>(*value_of("bundle"));
    out->name = runtime.name();
    out->task = runtime.task().name;
    out->outputs = static_cast<std::uint32_t>(runtime.outputs());
    out->label_range = {static_cast<float>(runtime.task().low), static_cast<float>(runtime.task().high)};
    out->labels = runtime.task().labels;
    for (std::size_t i = 0; i < dmdkit::kModalities; ++i) {
      const dmdkit::InputInfo& input = runtime.inputs()[i];
      out->modality_order[i] = input.name;
      out->steps[i] = static_cast<std::uint32_t>(input.steps);
      out->features[i] = static_cast<std::uint32_t>(input.features);
      out->may_be_absent[i] = input.may_be_absent;
    }
    if (runtime.has_edges()) out->edge_order.assign(runtime.edge_order().begin(), runtime.edge_order().end());
    out->graph = runtime.graph();
    out->backend = runtime.backend();
    info_->publish(std::move(out));
  }

  void start_diagnostics() {
    const auto seconds = value_of("diagnostics_period_s");
    const std::chrono::duration<double> period(seconds ? std::get<double>(*seconds) : 1.0);
    timer_ = create_wall_timer(period, [this] { guarded([this] { publish_diagnostics(); }); });
  }

  void publish_diagnostics() {
    Report report;
    if (logic_ != nullptr) {
      report = logic_->report(active_);
    } else {
      report.level = problem_.empty() ? Level::kStale : Level::kError;
      report.message = problem_.empty() ? "unconfigured" : "could not be configured: " + problem_;
      report.values = {{"state", "unconfigured"}, {"last_problem", problem_}};
    }
    diagnostic_msgs::msg::DiagnosticStatus status;
    status.level = static_cast<decltype(status.level)>(report.level);
    // Through the interface: Humble's lifecycle nodes have no get_fully_qualified_name.
    status.name = std::string(get_node_base_interface()->get_fully_qualified_name()) + ": predictions";
    status.hardware_id = logic_ != nullptr ? logic_->runtime().name() : std::string();
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

  // A value that the command line gives and the node refuses must not end the process: configuring fails with it instead.
  void declare(const ParameterInfo& info) {
    if (has_parameter(info.name)) return;  // declared from the overrides, where the node's options say so
    const rclcpp::ParameterValue standard = ros_value(info.standard);
    try {
      declare_parameter(info.name, standard, descriptor_of(info));
    } catch (const std::exception& error) {
      declare_parameter(info.name, standard, descriptor_of(info), true);
      refused_[info.name] = error.what();
      RCLCPP_ERROR(get_logger(), "%s", error.what());
    }
  }

  dmdkit::Result<Value> value_of(const std::string& name) {
    const ParameterInfo& info = *find_parameter(name);
    rclcpp::Parameter parameter;
    if (!get_parameter(name, parameter)) return info.standard;
    return converted_from_ros(info, parameter);
  }

  rcl_interfaces::msg::SetParametersResult check(const std::vector<rclcpp::Parameter>& given) {
    rcl_interfaces::msg::SetParametersResult result;
    result.successful = true;
    for (const rclcpp::Parameter& parameter : given) {
      const ParameterInfo* info = find_parameter(parameter.get_name());
      if (info == nullptr) continue;
      const auto value = converted_from_ros(*info, parameter);
      const auto current = value_of(info->name);
      if (!value) {
        result.reason = value.status().message();
      } else if (logic_ != nullptr && current && *value != *current) {
        result.reason = "parameter '" + info->name +
                        "' is read when the node is configured: deactivate and clean up the node, set it, and configure again";
      } else {
        refused_.erase(info->name);
      }
      result.successful = result.reason.empty();
      if (!result.successful) break;
    }
    return result;
  }

  rclcpp::Clock steady_{RCL_STEADY_TIME};
  std::map<std::string, std::string> refused_;  // parameters of the command line, and why they were not taken
  std::string problem_;                         // of the last transition
  std::unique_ptr<EmotionLogic> logic_;
  rclcpp_lifecycle::LifecyclePublisher<msg::Emotion>::SharedPtr emotion_;
  rclcpp_lifecycle::LifecyclePublisher<msg::Explanation>::SharedPtr explanation_;
  rclcpp::Publisher<msg::Info>::SharedPtr info_;
  rclcpp::Publisher<diagnostic_msgs::msg::DiagnosticArray>::SharedPtr diagnostics_;
  rclcpp::Subscription<msg::Features>::SharedPtr features_;
  rclcpp::Subscription<std_msgs::msg::String>::SharedPtr words_;
#ifdef DMDKIT_ROS_HRI
  rclcpp::Subscription<hri_msgs::msg::LiveSpeech>::SharedPtr speech_;
#endif
  rclcpp::TimerBase::SharedPtr timer_;
  rclcpp::TimerBase::SharedPtr autostart_;
  rclcpp::node_interfaces::OnSetParametersCallbackHandle::SharedPtr on_set_;
  // Callbacks of one node are never run at once, unless it is given a group that allows it.
  std::atomic<bool> active_{false};
};

}  // namespace dmdkit_ros

RCLCPP_COMPONENTS_REGISTER_NODE(dmdkit_ros::EmotionNode)
