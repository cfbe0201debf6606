// An opened text graph: token ids and their mask in, features out. Opening and running may throw Failure.
#ifndef DMDKIT_SRC_TEXT_TOKEN_SESSION_HPP_
#define DMDKIT_SRC_TEXT_TOKEN_SESSION_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "dmdkit/backend.h"
#include "dmdkit/types.hpp"

namespace dmdkit::text {

class TokenSession {
 public:
  // Opens text graph `name` of `bundle`, which has a text encoder, after checking its hash, and that it is what the manifest
  // says: in the backend asked for where that takes ONNX files and tokens, else in ONNX Runtime.
  TokenSession(const Bundle& bundle, const std::string& name, const Options& options);
  ~TokenSession();
  TokenSession(const TokenSession&) = delete;
  TokenSession& operator=(const TokenSession&) = delete;

  const std::string& name() const noexcept { return name_; }
  const std::string& backend() const noexcept { return backend_; }

  // Makes room for so many sentences of so many tokens; nothing is kept of what was there.
  void resize(std::size_t batch, std::size_t length);
  std::int64_t* ids() noexcept { return tokens_[0].data(); }    // (batch, length)
  std::int64_t* mask() noexcept { return tokens_[1].data(); }   // 1 where a token stands
  const float* features() const noexcept { return features_.data(); }  // (batch, length, features)

  void run();

 private:
  void check_ports(const Bundle& bundle);
  [[noreturn]] void fail(int code, const char* error) const;

  const dmdkit_backend_vtable& table_;
  std::string name_;
  std::string backend_;
  dmdkit_backend_session* session_ = nullptr;
  std::array<std::size_t, 2> place_{};  // of input_ids and attention_mask among the graph's inputs
  std::array<std::vector<std::int64_t>, 2> tokens_;
  std::vector<float> features_;
  std::size_t width_ = 0;  // features of a step
  std::size_t batch_ = 0;
  std::size_t length_ = 0;
};

}  // namespace dmdkit::text

#endif  // DMDKIT_SRC_TEXT_TOKEN_SESSION_HPP_
