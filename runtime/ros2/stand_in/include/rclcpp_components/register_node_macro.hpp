#ifndef RCLCPP_COMPONENTS__REGISTER_NODE_MACRO_HPP_
#define RCLCPP_COMPONENTS__REGISTER_NODE_MACRO_HPP_
#include <functional>
#include <map>
#include <memory>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <string>

namespace stand_in {

using NodeFactory = std::function<std::shared_ptr<rclcpp_lifecycle::LifecycleNode>(const rclcpp::NodeOptions&)>;

inline std::map<std::string, NodeFactory>& components() {
  static std::map<std::string, NodeFactory> all;
  return all;
}

}  // namespace stand_in

#define RCLCPP_COMPONENTS_REGISTER_NODE(NodeClass)                                                                      \
  namespace {                                                                                                           \
  [[maybe_unused]] const bool stand_in_registered =                                                                     \
      ::stand_in::components()                                                                                          \
          .emplace(#NodeClass, [](const rclcpp::NodeOptions& options) { return std::make_shared<NodeClass>(options); }) \
          .second;                                                                                                      \
  }

#endif  // RCLCPP_COMPONENTS__REGISTER_NODE_MACRO_HPP_
