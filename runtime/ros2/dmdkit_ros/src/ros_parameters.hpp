// Between ROS's parameters and ours.
#ifndef DMDKIT_ROS_ROS_PARAMETERS_HPP_
#define DMDKIT_ROS_ROS_PARAMETERS_HPP_

#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rclcpp/rclcpp.hpp>
#include <string>
#include <variant>

#include "dmdkit_ros/parameters.hpp"

namespace dmdkit_ros {

inline rclcpp::ParameterValue ros_value(const Value& value) {
  return std::visit([](const auto& held) { return rclcpp::ParameterValue(held); }, value);
}

// Dynamically typed, so that an integer reaches us where a number or text is meant; ranges are for those who ask for them.
inline rcl_interfaces::msg::ParameterDescriptor descriptor_of(const ParameterInfo& info) {
  rcl_interfaces::msg::ParameterDescriptor descriptor;
  descriptor.name = info.name;
  descriptor.description = info.description;
  descriptor.dynamic_typing = true;
  if (std::holds_alternative<std::int64_t>(info.standard)) {
    descriptor.integer_range.resize(1);
    descriptor.integer_range[0].from_value = static_cast<std::int64_t>(info.low);
    descriptor.integer_range[0].to_value = static_cast<std::int64_t>(info.high);
  } else if (std::holds_alternative<double>(info.standard)) {
    descriptor.floating_point_range.resize(1);
    descriptor.floating_point_range[0].from_value = info.low;
    descriptor.floating_point_range[0].to_value = info.high;
  }
  return descriptor;
}

inline dmdkit::Result<Value> converted_from_ros(const ParameterInfo& info, const rclcpp::Parameter& parameter) {
  switch (parameter.get_type()) {
    case rclcpp::ParameterType::PARAMETER_BOOL:
      return converted(info, parameter.as_bool());
    case rclcpp::ParameterType::PARAMETER_INTEGER:
      return converted(info, parameter.as_int());
    case rclcpp::ParameterType::PARAMETER_DOUBLE:
      return converted(info, parameter.as_double());
    case rclcpp::ParameterType::PARAMETER_STRING:
      return converted(info, parameter.as_string());
    default:
      return dmdkit::Status(dmdkit::StatusCode::kInvalidInput,
                            "parameter '" + info.name + "' is " + parameter.get_type_name() + ": expected " + type_name(info));
  }
}

}  // namespace dmdkit_ros

#endif  // DMDKIT_ROS_ROS_PARAMETERS_HPP_
