add_library(rclcpp_lifecycle::rclcpp_lifecycle INTERFACE IMPORTED)
