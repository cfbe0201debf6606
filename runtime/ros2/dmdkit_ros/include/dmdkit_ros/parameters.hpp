// The node's parameters without ROS: names, defaults, ranges, and which values are taken for them.
#ifndef DMDKIT_ROS_PARAMETERS_HPP_
#define DMDKIT_ROS_PARAMETERS_HPP_

#include <cstdint>
#include <dmdkit/result.hpp>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "dmdkit_ros/emotion_logic.hpp"

namespace dmdkit_ros {

using Value = std::variant<bool, std::int64_t, double, std::string>;
using Values = std::map<std::string, Value>;

struct ParameterInfo {
  std::string name;
  Value standard;    // the default; it also says the type
  double low = 0.0;  // smallest and largest number allowed; of numbers alone
  double high = 0.0;
  std::string description;
};

// All of them, in the order of config/emotion.yaml.
const std::vector<ParameterInfo>& parameters();

// Null if the node has no such parameter.
const ParameterInfo* find_parameter(const std::string& name);

// "an integer" and the like: what its values must be.
const char* type_name(const ParameterInfo& info);

// `given` as the parameter's type. A shell or a YAML file turns "50" and "2024" into integers, so an integer is taken for a
// number and for text; everything else of another type is refused with the type that is wanted, and so is a number out of
// range.
dmdkit::Result<Value> converted(const ParameterInfo& info, const Value& given);

// The settings that `values` describe; what they leave out keeps its default. Every value must have its parameter's type.
Settings settings_from(const Values& values);

}  // namespace dmdkit_ros

#endif  // DMDKIT_ROS_PARAMETERS_HPP_
