// Topics inside one process with the rules of a middleware: who hears whom, what a queue holds, what is latched.
#ifndef STAND_IN_MIDDLEWARE_HPP_
#define STAND_IN_MIDDLEWARE_HPP_
#include <deque>
#include <memory>
#include <rclcpp/qos.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace stand_in {

using Message = std::shared_ptr<const void>;

struct Reader {
  std::string topic;
  rclcpp::QoS qos;
  std::deque<Message> queue;
};

struct Writer {
  std::string topic;
  rclcpp::QoS qos;
  std::deque<Message> kept;
};

struct Published {
  std::string topic;
  Message message;
};

class Middleware {
 public:
  bool counts_lost_messages = true;  // where it does not, to ask for it is an exception

  std::shared_ptr<Reader> read(const std::string& topic, const rclcpp::QoS& qos) {
    auto reader = std::make_shared<Reader>(Reader{topic, qos, {}});
    readers_.push_back(reader);
    if (qos.durability() == rclcpp::DurabilityPolicy::TransientLocal) {
      for (const auto& writer : alive(writers_)) {
        if (writer->topic != topic || !matches(*writer, *reader)) continue;
        for (const Message& message : writer->kept) push(*reader, message);
      }
    }
    return reader;
  }

  std::shared_ptr<Writer> write(const std::string& topic, const rclcpp::QoS& qos) {
    auto writer = std::make_shared<Writer>(Writer{topic, qos, {}});
    writers_.push_back(writer);
    return writer;
  }

  void publish(Writer& writer, const Message& message) {
    published.push_back({writer.topic, message});
    writer.kept.push_back(message);
    if (writer.kept.size() > writer.qos.depth()) writer.kept.pop_front();
    for (const auto& reader : alive(readers_)) {
      if (reader->topic == writer.topic && matches(writer, *reader)) push(*reader, message);
    }
  }

  std::shared_ptr<Writer> find_writer(const std::string& topic) {
    for (const auto& writer : alive(writers_)) {
      if (writer->topic == topic) return writer;
    }
    return nullptr;
  }

  std::vector<Published> published;  // on every topic, in order

 private:
  template <typename T>
  static std::vector<std::shared_ptr<T>> alive(const std::vector<std::weak_ptr<T>>& all) {
    std::vector<std::shared_ptr<T>> found;
    for (const auto& weak : all) {
      if (auto held = weak.lock()) found.push_back(std::move(held));
    }
    return found;
  }

  static bool matches(const Writer& writer, const Reader& reader) {
    const bool reliable = reader.qos.reliability() != rclcpp::ReliabilityPolicy::Reliable ||
                          writer.qos.reliability() == rclcpp::ReliabilityPolicy::Reliable;
    const bool durable = reader.qos.durability() != rclcpp::DurabilityPolicy::TransientLocal ||
                         writer.qos.durability() == rclcpp::DurabilityPolicy::TransientLocal;
    return reliable && durable;
  }

  // A full queue forgets its oldest message, and nobody is told.
  static void push(Reader& reader, const Message& message) {
    reader.queue.push_back(message);
    if (reader.qos.history() == rclcpp::HistoryPolicy::KeepLast && reader.queue.size() > reader.qos.depth()) {
      reader.queue.pop_front();
    }
  }

  std::vector<std::weak_ptr<Reader>> readers_;
  std::vector<std::weak_ptr<Writer>> writers_;
};

inline Middleware& middleware() {
  static Middleware the_middleware;
  return the_middleware;
}

}  // namespace stand_in

#endif  // STAND_IN_MIDDLEWARE_HPP_
