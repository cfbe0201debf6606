#ifndef RCLCPP__LOGGING_HPP_
#define RCLCPP__LOGGING_HPP_
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace rclcpp {

class Logger {
 public:
  explicit Logger(std::string name) : name_(std::move(name)) {}
  const char* get_name() const { return name_.c_str(); }

 private:
  std::string name_;
};

inline Logger get_logger(const std::string& name) { return Logger(name); }

}  // namespace rclcpp

namespace stand_in {

struct LogLine {
  std::string severity;
  std::string text;
};

inline std::vector<LogLine>& log_lines() {
  static std::vector<LogLine> lines;
  return lines;
}

__attribute__((format(printf, 2, 3))) inline void log_line(const char* severity, const char* format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  log_lines().push_back({severity, text});
  std::fprintf(stderr, "[%s] %s\n", severity, text);
}

}  // namespace stand_in

#define STAND_IN_LOG(severity, logger, ...)                                                                      \
  do {                                                                                                           \
    static_assert(std::is_same_v<std::remove_cv_t<std::remove_reference_t<decltype(logger)>>, ::rclcpp::Logger>, \
                  "First argument to logging macros must be an rclcpp::Logger");                                 \
    ::stand_in::log_line(severity, __VA_ARGS__);                                                                 \
  } while (0)
// As rcutils has it: silent until the clock shows a whole period since 0, for good if it stands still.
#define STAND_IN_LOG_THROTTLE(severity, logger, clock, duration, ...)                     \
  do {                                                                                    \
    auto stand_in_now = [&c = clock]() -> std::int64_t { return c.now().nanoseconds(); }; \
    static std::int64_t stand_in_last = 0;                                                \
    const std::int64_t stand_in_time = stand_in_now();                                    \
    if (stand_in_time >= stand_in_last + std::int64_t{duration} * 1'000'000) {            \
      stand_in_last = stand_in_time;                                                      \
      STAND_IN_LOG(severity, logger, __VA_ARGS__);                                        \
    }                                                                                     \
  } while (0)

#define RCLCPP_INFO(logger, ...) STAND_IN_LOG("INFO", logger, __VA_ARGS__)
#define RCLCPP_WARN(logger, ...) STAND_IN_LOG("WARN", logger, __VA_ARGS__)
#define RCLCPP_ERROR(logger, ...) STAND_IN_LOG("ERROR", logger, __VA_ARGS__)
#define RCLCPP_WARN_THROTTLE(logger, clock, duration, ...) STAND_IN_LOG_THROTTLE("WARN", logger, clock, duration, __VA_ARGS__)
#define RCLCPP_ERROR_THROTTLE(logger, clock, duration, ...) STAND_IN_LOG_THROTTLE("ERROR", logger, clock, duration, __VA_ARGS__)

#endif  // RCLCPP__LOGGING_HPP_
