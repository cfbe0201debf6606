// A stand-in for rclcpp_lifecycle: the state machine and the members of a lifecycle node that the node uses.
#ifndef RCLCPP_LIFECYCLE__LIFECYCLE_NODE_HPP_
#define RCLCPP_LIFECYCLE__LIFECYCLE_NODE_HPP_
#include <functional>
#include <lifecycle_msgs/msg/state.hpp>
#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rclcpp_lifecycle {

class State {
 public:
  State(std::uint8_t id, std::string label) : id_(id), label_(std::move(label)) {}
  virtual ~State() = default;
  std::uint8_t id() const { return id_; }
  std::string label() const { return label_; }

 private:
  std::uint8_t id_;
  std::string label_;
};

class SimpleManagedEntity {
 public:
  virtual ~SimpleManagedEntity() = default;
  virtual void on_activate() { activated_ = true; }
  virtual void on_deactivate() { activated_ = false; }
  bool is_activated() const { return activated_; }

 private:
  bool activated_ = false;
};

template <typename MessageT, typename Alloc = std::allocator<void>>
class LifecyclePublisher : public SimpleManagedEntity, public rclcpp::Publisher<MessageT, Alloc> {
 public:
  using SharedPtr = std::shared_ptr<LifecyclePublisher>;
  using rclcpp::Publisher<MessageT, Alloc>::Publisher;

  void publish(std::unique_ptr<MessageT> message) override {
    if (is_activated()) return rclcpp::Publisher<MessageT, Alloc>::publish(std::move(message));
    RCLCPP_WARN(logger_, "Trying to publish message on the topic '%s', but the publisher is not activated",
                this->get_topic_name());
  }
  void publish(const MessageT& message) override { publish(std::make_unique<MessageT>(message)); }

 private:
  rclcpp::Logger logger_{"LifecyclePublisher"};
};

namespace node_interfaces {
class LifecycleNodeInterface {
 public:
  enum class CallbackReturn : std::uint8_t { SUCCESS = 97, FAILURE = 98, ERROR = 99 };
  virtual ~LifecycleNodeInterface() = default;
  virtual CallbackReturn on_configure(const State&) { return CallbackReturn::SUCCESS; }
  virtual CallbackReturn on_cleanup(const State&) { return CallbackReturn::SUCCESS; }
  virtual CallbackReturn on_shutdown(const State&) { return CallbackReturn::SUCCESS; }
  virtual CallbackReturn on_activate(const State&) { return CallbackReturn::SUCCESS; }
  virtual CallbackReturn on_deactivate(const State&) { return CallbackReturn::SUCCESS; }
  virtual CallbackReturn on_error(const State&) { return CallbackReturn::FAILURE; }
};
}  // namespace node_interfaces

class LifecycleNode : public node_interfaces::LifecycleNodeInterface, public std::enable_shared_from_this<LifecycleNode> {
 public:
  using OnSetParametersCallbackHandle = rclcpp::node_interfaces::OnSetParametersCallbackHandle;
  using OnSetCallback = decltype(OnSetParametersCallbackHandle::callback);
#if STAND_IN_ROS_JAZZY
  using OnSetParametersCallbackType = OnSetCallback;
  using OnParametersSetCallbackType [[deprecated("use OnSetParametersCallbackType instead")]] = OnSetCallback;
#else
  using OnParametersSetCallbackType = OnSetCallback;
#endif

  explicit LifecycleNode(const std::string& node_name, const rclcpp::NodeOptions& options = rclcpp::NodeOptions(),
                         bool enable_communication_interface = true)
      : base_(std::make_shared<rclcpp::node_interfaces::NodeBaseInterface>(node_name)), logger_(node_name) {
    (void)enable_communication_interface;
    base_->intra_process = options.use_intra_process_comms();
    for (const rclcpp::Parameter& given : options.parameter_overrides()) {
      parameters_.overrides[given.get_name()] = given.get_parameter_value();
    }
  }

  rclcpp::Logger get_logger() const { return logger_; }
  rclcpp::Clock::SharedPtr get_clock() { return clock_; }
  rclcpp::Time now() const { return clock_->now(); }
  rclcpp::node_interfaces::NodeBaseInterface::SharedPtr get_node_base_interface() { return base_; }
#if STAND_IN_ROS_JAZZY
  const char* get_fully_qualified_name() const { return base_->get_fully_qualified_name(); }
  const State& get_current_state() const { return state_; }
#else
  const State& get_current_state() { return state_; }
#endif

  template <typename MessageT, typename AllocatorT = std::allocator<void>>
  std::shared_ptr<LifecyclePublisher<MessageT, AllocatorT>> create_publisher(
      const std::string& topic_name, const rclcpp::QoS& qos,
      const rclcpp::PublisherOptionsWithAllocator<AllocatorT>& options =
          (rclcpp::PublisherOptionsWithAllocator<AllocatorT>())) {
    auto made = rclcpp::create_publisher<MessageT, AllocatorT, LifecyclePublisher<MessageT, AllocatorT>>(*this, topic_name, qos,
                                                                                                         options);
    managed_.push_back(made);
    return made;
  }

  template <typename MessageT, typename CallbackT, typename AllocatorT = std::allocator<void>,
            typename SubscriptionT = rclcpp::Subscription<MessageT, AllocatorT>>
  std::shared_ptr<SubscriptionT> create_subscription(const std::string& topic_name, const rclcpp::QoS& qos,
                                                     CallbackT&& callback,
                                                     const rclcpp::SubscriptionOptionsWithAllocator<AllocatorT>& options =
                                                         rclcpp::SubscriptionOptionsWithAllocator<AllocatorT>()) {
    const std::string topic = base_->resolve_topic_name(topic_name);
    const auto wanted = rclcpp::detail::overridden_qos(options.qos_overriding_options, parameters_, topic, "subscription", qos);
    auto made = std::make_shared<SubscriptionT>(base_.get(), topic, wanted, std::forward<CallbackT>(callback), options);
    base_->subscriptions.push_back(made);
    return made;
  }

  template <typename DurationRepT = std::int64_t, typename DurationT = std::milli, typename CallbackT>
  typename rclcpp::WallTimer<CallbackT>::SharedPtr create_wall_timer(std::chrono::duration<DurationRepT, DurationT> period,
                                                                     CallbackT callback) {
    auto timer = std::make_shared<rclcpp::WallTimer<CallbackT>>(std::chrono::duration_cast<std::chrono::nanoseconds>(period),
                                                                std::move(callback));
    base_->timers.push_back(timer);
    return timer;
  }

  const rclcpp::ParameterValue& declare_parameter(
      const std::string& name, const rclcpp::ParameterValue& default_value,
      const rcl_interfaces::msg::ParameterDescriptor& descriptor = rcl_interfaces::msg::ParameterDescriptor(),
      bool ignore_override = false) {
    return parameters_.declare(name, default_value, descriptor, ignore_override);
  }
  template <typename ParameterT>
  auto declare_parameter(
      const std::string& name, const ParameterT& default_value,
      const rcl_interfaces::msg::ParameterDescriptor& descriptor = rcl_interfaces::msg::ParameterDescriptor(),
      bool ignore_override = false) {
    return declare_parameter(name, rclcpp::ParameterValue(default_value), descriptor, ignore_override)
        .template get<ParameterT>();
  }
  bool has_parameter(const std::string& name) const { return parameters_.has(name); }
  rclcpp::Parameter get_parameter(const std::string& name) const { return parameters_.get(name); }
  bool get_parameter(const std::string& name, rclcpp::Parameter& parameter) const {
    if (!has_parameter(name)) return false;
    parameter = parameters_.get(name);
    return true;
  }
  rcl_interfaces::msg::SetParametersResult set_parameter(const rclcpp::Parameter& parameter) {
    return parameters_.set(parameter);
  }
  rcl_interfaces::msg::ParameterDescriptor describe_parameter(const std::string& name) const {
    return parameters_.describe(name);
  }
  [[nodiscard]] OnSetParametersCallbackHandle::SharedPtr add_on_set_parameters_callback(OnSetCallback callback) {
    return parameters_.add(std::move(callback));
  }

  const State& configure() { return transition(1, 2, &LifecycleNode::on_configure); }
  const State& cleanup() { return transition(2, 1, &LifecycleNode::on_cleanup); }
  const State& activate() { return transition(2, 3, &LifecycleNode::on_activate); }
  const State& deactivate() { return transition(3, 2, &LifecycleNode::on_deactivate); }
  const State& shutdown() { return transition(state_.id(), 4, &LifecycleNode::on_shutdown); }

  CallbackReturn on_activate(const State&) override {
    for (const auto& weak : managed_) {
      if (const auto entity = weak.lock()) entity->on_activate();
    }
    return CallbackReturn::SUCCESS;
  }
  CallbackReturn on_deactivate(const State&) override {
    for (const auto& weak : managed_) {
      if (const auto entity = weak.lock()) entity->on_deactivate();
    }
    return CallbackReturn::SUCCESS;
  }

  rclcpp::node_interfaces::NodeParameters& stand_in_parameters() { return parameters_; }

 private:
  static State state_of(int id) {
    static constexpr const char* kNames[] = {"unknown", "unconfigured", "inactive", "active", "finalized"};
    return State(static_cast<std::uint8_t>(id), kNames[id]);
  }

  // A callback that throws counts as one that failed, and on_error decides.
  const State& transition(int from, int to, CallbackReturn (LifecycleNode::*callback)(const State&)) {
    if (state_.id() != from) {
      RCLCPP_ERROR(logger_, "Unable to start transition from current state %s", state_.label().c_str());
      return state_;
    }
    CallbackReturn answer = CallbackReturn::ERROR;
    try {
      answer = (this->*callback)(state_);
    } catch (const std::exception& error) {
      RCLCPP_ERROR(logger_, "Caught exception in callback for transition: %s", error.what());
    }
    if (answer == CallbackReturn::SUCCESS) {
      state_ = state_of(to);
    } else if (answer == CallbackReturn::ERROR) {
      state_ = state_of(on_error(state_) == CallbackReturn::SUCCESS ? 1 : 4);
    }
    return state_;
  }

  rclcpp::node_interfaces::NodeBaseInterface::SharedPtr base_;
  rclcpp::Logger logger_;
  rclcpp::Clock::SharedPtr clock_ = std::make_shared<rclcpp::Clock>(RCL_ROS_TIME);
  rclcpp::node_interfaces::NodeParameters parameters_;
  std::vector<std::weak_ptr<SimpleManagedEntity>> managed_;
  State state_ = state_of(1);
};

}  // namespace rclcpp_lifecycle

#endif  // RCLCPP_LIFECYCLE__LIFECYCLE_NODE_HPP_
