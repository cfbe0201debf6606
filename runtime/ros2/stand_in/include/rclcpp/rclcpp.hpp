// A stand-in for rclcpp in one process and one thread, as far as the node uses it. STAND_IN_ROS_JAZZY says which distribution's
// signatures and rules it has: 1 for Jazzy, 0 for Humble.
#ifndef RCLCPP__RCLCPP_HPP_
#define RCLCPP__RCLCPP_HPP_
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <rclcpp/logging.hpp>
#include <rclcpp/parameters.hpp>
#include <rclcpp/qos.hpp>
#include <rclcpp/time.hpp>
#include <stand_in/middleware.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

typedef struct rmw_message_lost_status_s {
  size_t total_count;
  size_t total_count_change;
} rmw_message_lost_status_t;

namespace rclcpp {

enum class IntraProcessSetting { Enable, Disable, NodeDefault };
using QOSMessageLostInfo = rmw_message_lost_status_t;
using QOSMessageLostCallbackType = std::function<void(QOSMessageLostInfo&)>;

class UnsupportedEventTypeException : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct SubscriptionEventCallbacks {
  QOSMessageLostCallbackType message_lost_callback;
};

template <typename Allocator>
struct PublisherOptionsWithAllocator {
  IntraProcessSetting use_intra_process_comm = IntraProcessSetting::NodeDefault;
  QosOverridingOptions qos_overriding_options;
};
using PublisherOptions = PublisherOptionsWithAllocator<std::allocator<void>>;

template <typename Allocator>
struct SubscriptionOptionsWithAllocator {
  SubscriptionEventCallbacks event_callbacks;
  IntraProcessSetting use_intra_process_comm = IntraProcessSetting::NodeDefault;
  QosOverridingOptions qos_overriding_options;
};
using SubscriptionOptions = SubscriptionOptionsWithAllocator<std::allocator<void>>;

class NodeOptions {
 public:
  NodeOptions& parameter_overrides(std::vector<Parameter> overrides) {
    overrides_ = std::move(overrides);
    return *this;
  }
  const std::vector<Parameter>& parameter_overrides() const { return overrides_; }
  NodeOptions& use_intra_process_comms(bool use) {
    intra_process_ = use;
    return *this;
  }
  bool use_intra_process_comms() const { return intra_process_; }

 private:
  std::vector<Parameter> overrides_;
  bool intra_process_ = false;
};

class MessageInfo {};

class TimerBase {
 public:
  using SharedPtr = std::shared_ptr<TimerBase>;
  virtual ~TimerBase() = default;
  void cancel() { cancelled_ = true; }
  bool is_canceled() { return cancelled_; }

  bool is_ready() const { return !cancelled_ && stand_in::clocks().steady_ns >= next_ns_; }
  void run() {
    next_ns_ = stand_in::clocks().steady_ns + std::max<std::int64_t>(period_ns_, 1);
    callback_();
  }

 protected:
  TimerBase(std::chrono::nanoseconds period, std::function<void()> callback)
      : period_ns_(period.count()), next_ns_(stand_in::clocks().steady_ns + period.count()), callback_(std::move(callback)) {
    if (period_ns_ < 0) throw std::invalid_argument("timer period cannot be negative");
  }

 private:
  std::int64_t period_ns_;
  std::int64_t next_ns_;
  std::function<void()> callback_;
  bool cancelled_ = false;
};

template <typename CallbackT>
class WallTimer : public TimerBase {
 public:
  using SharedPtr = std::shared_ptr<WallTimer>;
  WallTimer(std::chrono::nanoseconds period, CallbackT&& callback) : TimerBase(period, std::move(callback)) {}
};

class SubscriptionBase {
 public:
  virtual ~SubscriptionBase() = default;
  virtual bool run() = 0;  // hands one waiting message to the callback
};

namespace node_interfaces {
class NodeBaseInterface {
 public:
  using SharedPtr = std::shared_ptr<NodeBaseInterface>;
  explicit NodeBaseInterface(std::string name) : full_name_("/" + std::move(name)) {}
  const char* get_fully_qualified_name() const { return full_name_.c_str(); }
  std::string resolve_topic_name(const std::string& topic) const {
    return topic.rfind("~/", 0) == 0 ? full_name_ + topic.substr(1) : topic;
  }

  bool intra_process = false;
  std::vector<std::weak_ptr<TimerBase>> timers;
  std::vector<std::weak_ptr<SubscriptionBase>> subscriptions;

 private:
  std::string full_name_;
};
}  // namespace node_interfaces

namespace detail {
inline QoS overridden_qos(const QosOverridingOptions& options, node_interfaces::NodeParameters& parameters,
                          const std::string& topic, const char* entity, QoS qos) {
  const std::string prefix = "qos_overrides." + topic + "." + entity + ".";
  rcl_interfaces::msg::ParameterDescriptor descriptor;
  descriptor.read_only = true;
  const auto value = [&](const std::string& name, const ParameterValue& standard) {
    if (parameters.has(prefix + name)) return parameters.get(prefix + name).get_parameter_value();
    return parameters.declare(prefix + name, standard, descriptor, false);
  };
  for (const QosPolicyKind kind : options.get_policy_kinds()) {
    if (kind == QosPolicyKind::Depth) {
      qos.keep_last(
          static_cast<std::size_t>(value("depth", ParameterValue(static_cast<std::int64_t>(qos.depth()))).get<std::int64_t>()));
    } else if (kind == QosPolicyKind::Reliability) {
      const bool reliable = qos.reliability() == ReliabilityPolicy::Reliable;
      const auto word = value("reliability", ParameterValue(reliable ? "reliable" : "best_effort")).get<std::string>();
      if (word != "reliable" && word != "best_effort") {
        throw std::invalid_argument("unknown QoS policy reliability value: " + word);
      }
      word == "reliable" ? qos.reliable() : qos.best_effort();
    } else if (kind == QosPolicyKind::History) {
      if (value("history", ParameterValue("keep_last")).get<std::string>() == "keep_all") qos.keep_all();
    }
  }
  return qos;
}

inline bool uses_intra_process(IntraProcessSetting setting, const node_interfaces::NodeBaseInterface& node) {
  return setting == IntraProcessSetting::Enable || (setting == IntraProcessSetting::NodeDefault && node.intra_process);
}
}  // namespace detail

template <typename MessageT, typename AllocatorT = std::allocator<void>>
class Publisher {
 public:
  using SharedPtr = std::shared_ptr<Publisher>;
  Publisher(node_interfaces::NodeBaseInterface* node, const std::string& topic, const QoS& qos,
            const PublisherOptionsWithAllocator<AllocatorT>& options)
      : writer_(stand_in::middleware().write(topic, qos)) {
    if (!detail::uses_intra_process(options.use_intra_process_comm, *node)) return;
    if (qos.history() != HistoryPolicy::KeepLast) {
      throw std::invalid_argument("intraprocess communication on topic '" + topic +
                                  "' allowed only with keep last history qos policy");
    }
#if !STAND_IN_ROS_JAZZY
    if (qos.durability() != DurabilityPolicy::Volatile) {
      throw std::invalid_argument("intraprocess communication allowed only with volatile durability");
    }
#endif
  }
  virtual ~Publisher() = default;
  virtual void publish(std::unique_ptr<MessageT> message) {
    stand_in::middleware().publish(*writer_, std::shared_ptr<const MessageT>(std::move(message)));
  }
  virtual void publish(const MessageT& message) { publish(std::make_unique<MessageT>(message)); }
  const char* get_topic_name() const { return writer_->topic.c_str(); }

 private:
  std::shared_ptr<stand_in::Writer> writer_;
};

template <typename MessageT, typename AllocatorT = std::allocator<void>>
class Subscription : public SubscriptionBase {
 public:
  using SharedPtr = std::shared_ptr<Subscription>;
  using Callback = std::function<void(std::shared_ptr<const MessageT>)>;
  Subscription(node_interfaces::NodeBaseInterface* node, const std::string& topic, const QoS& qos, Callback callback,
               const SubscriptionOptionsWithAllocator<AllocatorT>& options)
      : reader_(stand_in::middleware().read(topic, qos)),
        callback_(std::move(callback)),
        events_(options.event_callbacks),
        intra_process_(detail::uses_intra_process(options.use_intra_process_comm, *node)) {
    if (events_.message_lost_callback && !stand_in::middleware().counts_lost_messages) {
      throw UnsupportedEventTypeException("failed to initialize event: unsupported event type");
    }
  }

  // Of what came from another process; what passed inside this one stands in a queue of its own.
  bool take(MessageT& message_out, MessageInfo&) {
    if (intra_process_ || reader_->queue.empty()) return false;
    message_out = *static_cast<const MessageT*>(reader_->queue.front().get());
    reader_->queue.pop_front();
    return true;
  }

  bool run() override {
    if (reader_->queue.empty()) return false;
    const auto message = std::static_pointer_cast<const MessageT>(reader_->queue.front());
    reader_->queue.pop_front();
    callback_(message);
    return true;
  }

  void lose(size_t count) {  // for tests
    rmw_message_lost_status_t status{count, count};
    if (events_.message_lost_callback) events_.message_lost_callback(status);
  }

 private:
  std::shared_ptr<stand_in::Reader> reader_;
  Callback callback_;
  SubscriptionEventCallbacks events_;
  bool intra_process_;
};

template <typename MessageT, typename AllocatorT = std::allocator<void>,
          typename PublisherT = rclcpp::Publisher<MessageT, AllocatorT>, typename NodeT>
std::shared_ptr<PublisherT> create_publisher(
    NodeT&& node, const std::string& topic_name, const rclcpp::QoS& qos,
    const rclcpp::PublisherOptionsWithAllocator<AllocatorT>& options = (rclcpp::PublisherOptionsWithAllocator<AllocatorT>())) {
  const auto base = node.get_node_base_interface();
  const std::string topic = base->resolve_topic_name(topic_name);
  return std::make_shared<PublisherT>(
      base.get(), topic,
      detail::overridden_qos(options.qos_overriding_options, node.stand_in_parameters(), topic, "publisher", qos), options);
}

namespace executors {
// Timers first, then one message of each subscription, until nothing is ready. What a callback throws is not caught.
class SingleThreadedExecutor {
 public:
  void add_node(node_interfaces::NodeBaseInterface::SharedPtr node) { nodes_.push_back(std::move(node)); }
  void spin_some() {
    for (bool worked = true; worked;) {
      worked = false;
      for (const auto& node : nodes_) {
        const auto timers = node->timers;
        for (const auto& weak : timers) {
          const auto timer = weak.lock();
          if (timer == nullptr || !timer->is_ready()) continue;
          timer->run();
          worked = true;
        }
        const auto subscriptions = node->subscriptions;
        for (const auto& weak : subscriptions) {
          const auto subscription = weak.lock();
          worked = (subscription != nullptr && subscription->run()) || worked;
        }
      }
    }
  }

 private:
  std::vector<node_interfaces::NodeBaseInterface::SharedPtr> nodes_;
};
}  // namespace executors
}  // namespace rclcpp

#endif  // RCLCPP__RCLCPP_HPP_
