#ifndef RCLCPP__TIME_HPP_
#define RCLCPP__TIME_HPP_
#include <builtin_interfaces/msg/time.hpp>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>

typedef enum rcl_clock_type_e {
  RCL_CLOCK_UNINITIALIZED = 0,
  RCL_ROS_TIME,
  RCL_SYSTEM_TIME,
  RCL_STEADY_TIME,
} rcl_clock_type_t;

namespace stand_in {

// What the clocks of the process show, moved by the tests alone. The ROS clock shows 0 under use_sim_time until /clock is
// published.
struct Clocks {
  std::int64_t system_ns = 1'700'000'000'000'000'000;
  std::int64_t steady_ns = 5'000'000'000;
  bool use_sim_time = false;
  std::int64_t sim_ns = 0;
};

inline Clocks& clocks() {
  static Clocks the_clocks;
  return the_clocks;
}

}  // namespace stand_in

namespace rclcpp {

class Time {
 public:
  Time(std::int32_t seconds, std::uint32_t nanoseconds, rcl_clock_type_t clock_type = RCL_SYSTEM_TIME) : type_(clock_type) {
    if (seconds < 0) throw std::runtime_error("cannot store a negative time point in rclcpp::Time");
    nanoseconds_ = seconds * std::int64_t{1'000'000'000} + nanoseconds;
  }
  explicit Time(std::int64_t nanoseconds = 0, rcl_clock_type_t clock_type = RCL_SYSTEM_TIME)
      : nanoseconds_(nanoseconds), type_(clock_type) {}
  Time(const builtin_interfaces::msg::Time& message, rcl_clock_type_t clock_type = RCL_ROS_TIME)  // NOLINT: as in rclcpp
      : Time(message.sec, message.nanosec, clock_type) {}

  operator builtin_interfaces::msg::Time() const {  // NOLINT: as in rclcpp
    const auto parts = std::lldiv(nanoseconds_, 1'000'000'000);
    builtin_interfaces::msg::Time message;
    message.sec = static_cast<std::int32_t>(parts.rem >= 0 ? parts.quot : parts.quot - 1);
    message.nanosec = static_cast<std::uint32_t>(parts.rem >= 0 ? parts.rem : 1'000'000'000 + parts.rem);
    return message;
  }

  std::int64_t nanoseconds() const { return nanoseconds_; }
  double seconds() const { return static_cast<double>(nanoseconds_) / 1e9; }
  rcl_clock_type_t get_clock_type() const { return type_; }

 private:
  std::int64_t nanoseconds_ = 0;
  rcl_clock_type_t type_;
};

class Clock {
 public:
  using SharedPtr = std::shared_ptr<Clock>;
  explicit Clock(rcl_clock_type_t clock_type = RCL_SYSTEM_TIME) : type_(clock_type) {}

#if STAND_IN_ROS_JAZZY
  Time now() const { return time(); }
#else
  Time now() { return time(); }
#endif
  rcl_clock_type_t get_clock_type() const { return type_; }

 private:
  Time time() const {
    const stand_in::Clocks& all = stand_in::clocks();
    if (type_ == RCL_STEADY_TIME) return Time(all.steady_ns, type_);
    return Time(type_ == RCL_ROS_TIME && all.use_sim_time ? all.sim_ns : all.system_ns, type_);
  }

  rcl_clock_type_t type_;
};

}  // namespace rclcpp

#endif  // RCLCPP__TIME_HPP_
