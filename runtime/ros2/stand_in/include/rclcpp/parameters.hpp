// Parameters with rclcpp's rules: types are static unless the descriptor says otherwise, ranges and callbacks may refuse, and
// what is refused while it is declared is an exception.
#ifndef RCLCPP__PARAMETERS_HPP_
#define RCLCPP__PARAMETERS_HPP_
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rcl_interfaces/msg/set_parameters_result.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rclcpp {

enum ParameterType : std::uint8_t {
  PARAMETER_NOT_SET = 0,
  PARAMETER_BOOL,
  PARAMETER_INTEGER,
  PARAMETER_DOUBLE,
  PARAMETER_STRING,
};

inline std::string to_string(ParameterType type) {
  static constexpr const char* kNames[] = {"not set", "bool", "integer", "double", "string"};
  return kNames[type];
}

class ParameterTypeException : public std::runtime_error {
 public:
  ParameterTypeException(ParameterType expected, ParameterType actual)
      : std::runtime_error("expected [" + to_string(expected) + "] got [" + to_string(actual) + "]") {}
};

namespace exceptions {
#define STAND_IN_EXCEPTION(name)             \
  class name : public std::runtime_error {   \
    using std::runtime_error::runtime_error; \
  }
STAND_IN_EXCEPTION(InvalidParameterValueException);
STAND_IN_EXCEPTION(ParameterAlreadyDeclaredException);
STAND_IN_EXCEPTION(ParameterNotDeclaredException);
STAND_IN_EXCEPTION(ParameterUninitializedException);
#undef STAND_IN_EXCEPTION
class InvalidParameterTypeException : public std::runtime_error {
 public:
  InvalidParameterTypeException(const std::string& name, const std::string& message)
      : std::runtime_error("parameter '" + name + "' has invalid type: " + message) {}
};
}  // namespace exceptions

class ParameterValue {
 public:
  ParameterValue() = default;
  explicit ParameterValue(const bool value) : value_(value) {}
  explicit ParameterValue(const int value) : value_(std::int64_t{value}) {}
  explicit ParameterValue(const std::int64_t value) : value_(value) {}
  explicit ParameterValue(const double value) : value_(value) {}
  explicit ParameterValue(const std::string& value) : value_(value) {}
  explicit ParameterValue(const char* value) : value_(std::string(value)) {}

  ParameterType get_type() const { return static_cast<ParameterType>(value_.index()); }
  template <typename T>
  const T& get() const {
    if (const T* held = std::get_if<T>(&value_)) return *held;
    throw ParameterTypeException(ParameterValue(T()).get_type(), get_type());
  }

 private:
  std::variant<std::monostate, bool, std::int64_t, double, std::string> value_;
};

class Parameter {
 public:
  Parameter() = default;
  Parameter(std::string name, const ParameterValue& value) : name_(std::move(name)), value_(value) {}
  template <typename T>
  Parameter(std::string name, T value) : Parameter(std::move(name), ParameterValue(value)) {}

  const std::string& get_name() const { return name_; }
  ParameterType get_type() const { return value_.get_type(); }
  std::string get_type_name() const { return to_string(get_type()); }
  const ParameterValue& get_parameter_value() const { return value_; }
  bool as_bool() const { return value_.get<bool>(); }
  std::int64_t as_int() const { return value_.get<std::int64_t>(); }
  double as_double() const { return value_.get<double>(); }
  const std::string& as_string() const { return value_.get<std::string>(); }

 private:
  std::string name_;
  ParameterValue value_;
};

namespace node_interfaces {

struct OnSetParametersCallbackHandle {
  using SharedPtr = std::shared_ptr<OnSetParametersCallbackHandle>;
  std::function<rcl_interfaces::msg::SetParametersResult(const std::vector<rclcpp::Parameter>&)> callback;
};

class NodeParameters {
 public:
  using Result = rcl_interfaces::msg::SetParametersResult;
  using Descriptor = rcl_interfaces::msg::ParameterDescriptor;

  std::map<std::string, ParameterValue> overrides;

  OnSetParametersCallbackHandle::SharedPtr add(decltype(OnSetParametersCallbackHandle::callback) callback) {
    auto handle = std::make_shared<OnSetParametersCallbackHandle>();
    handle->callback = std::move(callback);
    callbacks_.emplace_front(handle);  // the last one added is asked first
    return handle;
  }

  const ParameterValue& declare(const std::string& name, const ParameterValue& standard, Descriptor descriptor,
                                bool ignore_override) {
    if (has(name)) throw exceptions::ParameterAlreadyDeclaredException("parameter '" + name + "' has already been declared");
    if (!descriptor.dynamic_typing) {
      descriptor.type = standard.get_type();
      if (descriptor.type == PARAMETER_NOT_SET) {
        throw exceptions::InvalidParameterTypeException(
            name, "cannot declare a statically typed parameter with an uninitialized value");
      }
    }
    const auto given = overrides.find(name);
    const ParameterValue value = !ignore_override && given != overrides.end() ? given->second : standard;
    const Result result = checked(descriptor, Parameter(name, value));
    if (!result.successful) {
      if (result.reason.rfind("Wrong parameter type", 0) == 0) {
        throw exceptions::InvalidParameterTypeException(name, result.reason);
      }
      throw exceptions::InvalidParameterValueException("parameter '" + name + "' could not be set: " + result.reason);
    }
    all_[name] = {descriptor, value};
    return all_[name].value;
  }

  bool has(const std::string& name) const { return all_.count(name) > 0; }

  Parameter get(const std::string& name) const {
    if (!has(name)) throw exceptions::ParameterNotDeclaredException(name);
    return Parameter(name, all_.at(name).value);
  }

  const Descriptor& describe(const std::string& name) const { return all_.at(name).descriptor; }

  Result set(const Parameter& parameter) {
    const auto found = all_.find(parameter.get_name());
    if (found == all_.end()) {
      throw exceptions::ParameterNotDeclaredException("parameter '" + parameter.get_name() +
                                                      "' cannot be set because it was not declared");
    }
    if (found->second.descriptor.read_only) {
      return refused("parameter '" + parameter.get_name() + "' cannot be set because it is read-only");
    }
    const Result result = checked(found->second.descriptor, parameter);
    if (!result.successful) return result;
    if (parameter.get_type() == PARAMETER_NOT_SET) {  // a dynamically typed one goes away
      all_.erase(found);
    } else {
      found->second.value = parameter.get_parameter_value();
    }
    return result;
  }

 private:
  struct Held {
    Descriptor descriptor;
    ParameterValue value;
  };

  static Result refused(const std::string& reason) {
    Result result;
    result.reason = reason;
    return result;
  }

  Result checked(const Descriptor& descriptor, const Parameter& parameter) {
    const std::string& name = parameter.get_name();
    const auto wanted = static_cast<ParameterType>(descriptor.type);
    if (!descriptor.dynamic_typing && wanted != parameter.get_type()) {
      return refused("Wrong parameter type, parameter {" + name + "} is of type {" + to_string(wanted) + "}, setting it to {" +
                     to_string(parameter.get_type()) + "} is not allowed.");
    }
    for (const auto& range : descriptor.integer_range) {
      if (parameter.get_type() != PARAMETER_INTEGER) break;
      if (parameter.as_int() < range.from_value || parameter.as_int() > range.to_value) {
        return refused("Parameter {" + name + "} doesn't comply with integer range.");
      }
    }
    for (const auto& range : descriptor.floating_point_range) {
      if (parameter.get_type() != PARAMETER_DOUBLE) break;
      if (parameter.as_double() < range.from_value || parameter.as_double() > range.to_value) {
        return refused("Parameter {" + name + "} doesn't comply with floating point range.");
      }
    }
    for (const auto& weak : callbacks_) {
      if (const auto handle = weak.lock()) {
        const Result result = handle->callback({parameter});
        if (!result.successful) return result;
      }
    }
    Result result;
    result.successful = true;
    return result;
  }

  std::map<std::string, Held> all_;
  std::list<std::weak_ptr<OnSetParametersCallbackHandle>> callbacks_;
};

}  // namespace node_interfaces
}  // namespace rclcpp

#endif  // RCLCPP__PARAMETERS_HPP_
