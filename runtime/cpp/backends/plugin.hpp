// What every plug-in shares of the interface in dmdkit/backend.h: failures that become codes and texts, and the table.
//
// A plug-in defines dmdkit_backend_session with
//
//   static std::unique_ptr<dmdkit_backend_session> open(const dmdkit_backend_open_args& args);
//   const std::vector<T>& inputs() const;   // and outputs(); T has a name and a shape, whose first size is -1, the batch
//   void bind(std::size_t batch, float* const* inputs, float* const* outputs);
//   void run();                             // must not allocate unless it fails
//   const char* note() const;               // null, or what backend.h says of notes
//   void run_tokens(std::size_t batch, std::size_t length, const std::int64_t* const* inputs, float* output);  // if it can
//   std::unique_ptr<dmdkit_backend_session> share() const;  // only where another session can run the same model
//   void step(std::size_t place, std::size_t count, const float* const* rows, float* const* outputs);  // if it keeps states
//   void read_state(std::size_t tensor, std::size_t steps, float* values) const;                       // then these two, too
//   void write_state(std::size_t tensor, std::size_t steps, const float* values);
//
// all of which may throw but the getters, keeps a `constexpr` table made by table_of, and defines the entry with
// DMDKIT_BACKEND_DEFINE_ENTRY.
#ifndef DMDKIT_BACKENDS_PLUGIN_HPP_
#define DMDKIT_BACKENDS_PLUGIN_HPP_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "dmdkit/backend.h"

namespace dmdkit_plugin {

// Why something failed, with a code of backend.h.
class Problem : public std::exception {
 public:
  Problem(int code, std::string text) : code_(code), text_(std::move(text)) {}
  int code() const noexcept { return code_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  int code_;
  std::string text_;
};

// Runs `body` and turns what it throws into a code and a text; nothing may leave a plug-in otherwise.
template <typename Body>
int answered(char* error, std::size_t error_size, Body&& body) noexcept {
  try {
    body();
    return DMDKIT_BACKEND_OK;
  } catch (const Problem& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
    return problem.code();
  } catch (const std::bad_alloc&) {
    std::snprintf(error, error_size, "out of memory");
    return DMDKIT_BACKEND_NO_MEMORY;
  } catch (const std::exception& problem) {
    std::snprintf(error, error_size, "%s", problem.what());
  } catch (...) {
    std::snprintf(error, error_size, "unknown failure");
  }
  return DMDKIT_BACKEND_FAILED;
}

template <typename Tensor>
void fill(const Tensor& tensor, dmdkit_backend_tensor* described) noexcept {
  *described = {tensor.name.c_str(), tensor.shape.data(), tensor.shape.size()};
}

// Whether a plug-in's session reads tokens.
template <typename Session, typename = void>
struct TakesTokens : std::false_type {};
template <typename Session>
struct TakesTokens<Session, std::void_t<decltype(&Session::run_tokens)>> : std::true_type {};

using RunTokens = decltype(dmdkit_backend_vtable::run_tokens);

template <typename Session>
constexpr RunTokens run_tokens_of() {
  if constexpr (TakesTokens<Session>::value) {
    return [](Session* session, std::size_t batch, std::size_t length, const std::int64_t* const* inputs, float* output,
              char* error, std::size_t error_size) {
      return answered(error, error_size, [&] { session->run_tokens(batch, length, inputs, output); });
    };
  } else {
    return nullptr;
  }
}

using ShareFunction = int (*)(const dmdkit_backend_session*, dmdkit_backend_session**, char*, std::size_t);

template <typename Session, typename = void>
struct Share {
  static constexpr ShareFunction function = nullptr;
};

template <typename Session>
struct Share<Session, std::void_t<decltype(std::declval<const Session&>().share())>> {
  static constexpr ShareFunction function = [](const Session* session, Session** other, char* error, std::size_t error_size) {
    *other = nullptr;
    return answered(error, error_size, [&] { *other = session->share().release(); });
  };
};

// What a plug-in's session does with the state of a stream.
template <typename Session, typename = void>
struct Steps {
  static constexpr decltype(dmdkit_backend_vtable::step) step = nullptr;
  static constexpr decltype(dmdkit_backend_vtable::read_state) read_state = nullptr;
  static constexpr decltype(dmdkit_backend_vtable::write_state) write_state = nullptr;
};

template <typename Session>
struct Steps<Session, std::void_t<decltype(&Session::step)>> {
  static constexpr decltype(dmdkit_backend_vtable::step) step =
      [](Session* session, std::size_t place, std::size_t count, const float* const* rows, float* const* outputs, char* error,
         std::size_t error_size) { return answered(error, error_size, [&] { session->step(place, count, rows, outputs); }); };
  static constexpr decltype(dmdkit_backend_vtable::read_state) read_state =
      [](const Session* session, std::size_t tensor, std::size_t steps, float* values, char* error, std::size_t error_size) {
        return answered(error, error_size, [&] { session->read_state(tensor, steps, values); });
      };
  static constexpr decltype(dmdkit_backend_vtable::write_state) write_state =
      [](Session* session, std::size_t tensor, std::size_t steps, const float* values, char* error, std::size_t error_size) {
        return answered(error, error_size, [&] { session->write_state(tensor, steps, values); });
      };
};

// The table of a plug-in whose session is `Session`, which is always dmdkit_backend_session: a parameter only so that this is
// compiled where that is complete.
template <typename Session>
constexpr dmdkit_backend_vtable table_of(const char* (*describe)(), bool takes_engines) {
  return {
      DMDKIT_BACKEND_ABI_VERSION,
      sizeof(dmdkit_backend_vtable),
      describe,
      [](const dmdkit_backend_open_args* args, Session** result, char* error, std::size_t error_size) {
        *result = nullptr;
        return answered(error, error_size, [&] { *result = Session::open(*args).release(); });
      },
      [](const Session* session) -> std::size_t { return session->inputs().size(); },
      [](const Session* session) -> std::size_t { return session->outputs().size(); },
      [](const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) { fill(session->inputs()[index], tensor); },
      [](const Session* session, std::size_t index, dmdkit_backend_tensor* tensor) { fill(session->outputs()[index], tensor); },
      [](Session* session, std::size_t batch, float* const* inputs, float* const* outputs, char* error,
         std::size_t error_size) { return answered(error, error_size, [&] { session->bind(batch, inputs, outputs); }); },
      [](Session* session, char* error, std::size_t error_size) {
        return answered(error, error_size, [&] { session->run(); });
      },
      [](Session* session) { delete session; },
      takes_engines ? 1 : 0,
      [](const Session* session) -> const char* { return session->note(); },
      run_tokens_of<Session>(),
      Share<Session>::function,
      Steps<Session>::step,
      Steps<Session>::read_state,
      Steps<Session>::write_state,
  };
}

}  // namespace dmdkit_plugin

// The one symbol of a plug-in.
#define DMDKIT_BACKEND_DEFINE_ENTRY(table)                                                                                \
  extern "C" __attribute__((visibility("default"))) const dmdkit_backend_vtable* dmdkit_backend_entry(uint32_t version) { \
    return version == DMDKIT_BACKEND_ABI_VERSION ? &(table) : nullptr;                                                    \
  }                                                                                                                       \
  static_assert(true, "a semicolon follows")

#endif  // DMDKIT_BACKENDS_PLUGIN_HPP_
