#ifndef RCLCPP__QOS_HPP_
#define RCLCPP__QOS_HPP_
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <rcl_interfaces/msg/set_parameters_result.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rclcpp {

enum class HistoryPolicy { KeepLast, KeepAll };
enum class ReliabilityPolicy {
  BestEffort,
  Reliable,
#if STAND_IN_ROS_JAZZY
  BestAvailable,
#endif
};
enum class DurabilityPolicy {
  Volatile,
  TransientLocal,
#if STAND_IN_ROS_JAZZY
  BestAvailable,
#endif
};

class QoS {
 public:
  QoS(std::size_t history_depth) : depth_(history_depth) {}  // NOLINT: as in rclcpp

  QoS& keep_last(std::size_t depth) {
    history_ = HistoryPolicy::KeepLast;
    depth_ = depth;
    return *this;
  }
  QoS& keep_all() { return history(HistoryPolicy::KeepAll); }
  QoS& history(HistoryPolicy policy) {
    history_ = policy;
    return *this;
  }
  QoS& reliability(ReliabilityPolicy policy) {
    reliability_ = policy;
    return *this;
  }
  QoS& reliable() { return reliability(ReliabilityPolicy::Reliable); }
  QoS& best_effort() { return reliability(ReliabilityPolicy::BestEffort); }
  QoS& durability(DurabilityPolicy policy) {
    durability_ = policy;
    return *this;
  }
  QoS& durability_volatile() { return durability(DurabilityPolicy::Volatile); }
  QoS& transient_local() { return durability(DurabilityPolicy::TransientLocal); }

  HistoryPolicy history() const { return history_; }
  std::size_t depth() const { return depth_; }
  ReliabilityPolicy reliability() const { return reliability_; }
  DurabilityPolicy durability() const { return durability_; }

 private:
  HistoryPolicy history_ = HistoryPolicy::KeepLast;
  std::size_t depth_;
  ReliabilityPolicy reliability_ = ReliabilityPolicy::Reliable;
  DurabilityPolicy durability_ = DurabilityPolicy::Volatile;
};

class SensorDataQoS : public QoS {
 public:
  explicit SensorDataQoS() : QoS(5) { best_effort(); }
};

class SystemDefaultsQoS : public QoS {
 public:
  explicit SystemDefaultsQoS() : QoS(1) {}
};

enum class QosPolicyKind { History, Depth, Reliability, Durability };
using QosCallbackResult = rcl_interfaces::msg::SetParametersResult;
using QosCallback = std::function<QosCallbackResult(const rclcpp::QoS&)>;

class QosOverridingOptions {
 public:
  QosOverridingOptions() = default;
  QosOverridingOptions(std::initializer_list<QosPolicyKind> kinds, QosCallback callback = nullptr, std::string id = {})
      : kinds_(kinds), callback_(std::move(callback)), id_(std::move(id)) {}
  static QosOverridingOptions with_default_policies(QosCallback callback = nullptr, std::string id = {}) {
    return QosOverridingOptions({QosPolicyKind::History, QosPolicyKind::Depth, QosPolicyKind::Reliability}, std::move(callback),
                                std::move(id));
  }
  const std::vector<QosPolicyKind>& get_policy_kinds() const { return kinds_; }
  const QosCallback& get_validation_callback() const { return callback_; }
  const std::string& get_id() const { return id_; }

 private:
  std::vector<QosPolicyKind> kinds_;
  QosCallback callback_;
  std::string id_;
};

}  // namespace rclcpp

#endif  // RCLCPP__QOS_HPP_
